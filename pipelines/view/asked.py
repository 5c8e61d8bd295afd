"""What a run was asked to do, as its provenance record says; before its end, as far as that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import BadValue
from open_diht.filters.presets import Preset, load_preset, recorded_preset
from open_diht.pipelines.datasets import READ_AS, Dataset, DatasetError, load_dataset
from open_diht.pipelines.stages.columns import NAME as COLUMNS
from open_diht.pipelines.store.commit import Garbled, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath, stamps


@dataclass(frozen=True)
class Asked:
    """What a run was asked to do."""

    preset: Preset
    preset_from: str
    """Where it comes from, for people."""
    stages: tuple[str, ...] | None
    """Those that decide; None while the run has not said."""
    dataset: Dataset
    """How the manifests are read."""
    command: tuple[str, ...]
    """The words that the run was started with, empty where it does not say."""


def provenance(layout: Layout) -> Mapping[str, Any]:
    """What `run.json` says, nothing before the end of the first run. Raises `WrongUse` where it is another's."""
    return json_of(layout.root / "run.json", preset=dict, stages=list, dataset=dict)


def json_of(path: StorePath, **kinds: type) -> Mapping[str, Any]:
    """Return a JSON file of an output, empty where there is no file.

    Args:
        path: the file.
        kinds: keys that the file must have, and the types of their values; `Counter` is a dict of whole numbers.

    Raises:
        WrongUse: the file is no JSON, lacks a key, or holds a value of another type.
    """
    try:
        found = read_json(path)
    except Garbled as error:
        raise WrongUse(str(error)) from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(_is(found.get(name), kind) for name, kind in kinds.items()):
        raise WrongUse(
            f"{path} is none that `make filter` has written; move it away, and the same `make filter` writes its own"
        )
    return found


def _is(value: Any, kind: type) -> bool:
    if kind is Counter:
        return isinstance(value, dict) and all(isinstance(count, int) for count in value.values())
    return isinstance(value, kind)


def asked_of(layout: Layout, record: Mapping[str, Any], preset: str | None) -> Asked:
    """What a run was asked to do, with another preset where one is named.

    Raises:
        WrongUse: its preset cannot be read, or asks of columns that no run has stored.
        BadPreset: no such preset.
    """
    found, origin = _preset(layout, record, preset)
    _check_columns(layout, found)
    stages = tuple(record["stages"]) if record else None
    return Asked(found, origin, stages, _dataset(record["dataset"] if record else {}), tuple(record.get("command", ())))


def _preset(layout: Layout, record: Mapping[str, Any], asked: str | None) -> tuple[Preset, str]:
    if asked is not None:
        return load_preset(asked), "as --preset says"
    if not record:
        return load_preset("paper"), "the default: this run has not said its own yet"
    try:
        return recorded_preset(record["preset"]), "the run's own"
    except BadValue as error:
        plugins = record.get("plugins") or []
        remedy = f"--plugin {plugins[0]}" if plugins else "--preset with one that this version knows"
        raise WrongUse(
            f"{layout.root / 'run.json'}: its preset cannot be read here ({error}); give {remedy}"
        ) from error


def _check_columns(layout: Layout, preset: Preset) -> None:
    first = next(iter(stamps(layout.commits(COLUMNS), ".json")), None) if preset.columns else None
    stored = json_of(layout.commit(COLUMNS, first), kinds=dict).get("kinds", {}) if first else {}
    for one in preset.columns:
        if one.reason not in stored:
            raise WrongUse(
                f"preset {preset.name} asks for column {one.reason}, which no run has read into {layout.root}; choose "
                "another preset, or run `make filter` with this one first"
            )


def _dataset(said: Mapping[str, Any]) -> Dataset:
    try:
        known = load_dataset(said.get("name", "custom"))
    except DatasetError:  # one that was made in Python; how it reads is recorded
        known = load_dataset("custom")
    read_as = {name: value for name, value in said.get("read_as", {}).items() if name in READ_AS}
    return known.with_roles(**said.get("roles", {}), **read_as)
