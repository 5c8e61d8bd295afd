"""What there is to do: the input files and their units, fixed once per output folder.

A unit is a part of one file (beam.md: 97 to 100 % of a plain loop, against 31 % with rows as elements). The plan lies
in the output folder; a later run reads it back, whatever machine it runs on, so that unit names and commit records keep
their meaning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from open_diht.common.naming import counted
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests import (
    BadSchema,
    Broken,
    FileInfo,
    NoInput,
    Span,
    UnreadableFile,
    check_consistent,
    check_images_root,
    expand_inputs,
    in_words,
    inspect,
    inspections,
    split,
)
from open_diht.pipelines.manifests.files import is_url
from open_diht.pipelines.manifests.pins import pinned
from open_diht.pipelines.store.commit import Garbled, publish_first, publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.ownership import check_output
from open_diht.pipelines.store.storage import SEE_TO_OUTPUT, StorePath, asked, is_local, many_at_once

UNIT_ROWS = (2_000, 100_000)  # least and most rows of a caption unit
IMAGE_ROWS = (32, 10_000)  # the same for image units
UNITS_PER_CORE = 4


class PlanMismatch(ValueError):
    """The output folder was started with another input; the message says which."""


@dataclass(frozen=True)
class Unit:
    """A unit of work. `name` is unique and a pure function of the input."""

    name: str
    span: Span


@dataclass(frozen=True)
class Plan:
    """The input of a run and its units."""

    fingerprint: str
    """Of the input files and how they are read."""
    units: tuple[Unit, ...]
    image_rows: int
    images: bool
    """Whether the input comes with images, or only with urls of them."""
    unreadable: tuple[Broken, ...]
    """Files that could not be read; they are dead letters."""
    rows: int
    """Rows in all, exact or estimated."""
    files: tuple[dict[str, Any], ...]
    """path, rows, bytes, fingerprint of each readable file, and whether it has urls and no images (`urls_only`)."""
    infos: tuple[FileInfo, ...] = ()
    """What was seen of each readable file, so that no run looks again."""
    pins: Mapping[str, str] = field(default_factory=dict)
    """Repositories on a hub that the input names, each with the commit that is read, see `hub.pins`."""

    @cached_property
    def _places(self) -> dict[str, int]:
        return {unit.name: index for index, unit in enumerate(self.units)}

    def __contains__(self, unit: str) -> bool:
        return unit in self._places

    def number(self, unit: str) -> int:
        """The place of a unit in the plan."""
        return self._places[unit]

    def span(self, unit: str) -> Span:
        """The rows of a unit."""
        return self.units[self._places[unit]].span

    def image_units(self, record: Mapping[str, Any]) -> range:
        """Return the numbers of the image units of a caption unit, given its record of stage `captions`."""
        return range(-(-record["extent"] // self.image_rows))

    def downloadable(self) -> set[str]:
        """The units whose images are only on the web."""
        paths = {entry["path"] for entry in self.files if entry.get("urls_only")}
        return {unit.name for unit in self.units if unit.span.path in paths}


def make_plan(
    pattern: str, dataset: Dataset, cores: int, unit_rows: int | None = None, output: StorePath | None = None
) -> Plan:
    """Look at every input file (footers and first lines) and cut it into units. What lies in `output` is no input: a
    folder of manifests may hold the results. Where it holds a plan, files that were not touched since are not looked at
    again, and where that plan is of the same input, its units are those of this one.

    Raises:
        ManifestError: nothing matches, a column is missing or ambiguous, files disagree.
        WrongUse: `output` is not free, see `check_output`.
    """
    check_images_root(dataset)
    kept = None if output is None else _kept(output)
    place, pins = pinned(pattern, {} if kept is None else kept.pins)
    paths = expand_inputs(place, dataset)
    if output is not None:
        paths = _outside(paths, pattern, output)
    known = {} if kept is None else {info.path: info for info in kept.infos}
    of_all = many_at_once if any(map(is_url, paths)) else map
    looked = list(of_all(partial(_look, dataset, known), paths))
    infos = [found for found in looked if not isinstance(found, UnreadableFile)]
    unreadable = [found.record for found in looked if isinstance(found, UnreadableFile)]
    if unreadable and not infos and dataset.format != "auto":
        raise BadSchema(
            f"none of {counted(len(unreadable), 'input file')} can be read as {dataset.format}, as --format says; "
            f"the first: {in_words(unreadable[0])}. Leave --format out, or name the format they have"
        )
    # Roles are resolved file by file; only a column that means the same and is of another type is a mistake.
    disagreeing = [difference for difference in check_consistent(infos) if difference.role]
    if disagreeing:
        more = f" (and {len(disagreeing) - 1} more)" if len(disagreeing) > 1 else ""
        raise BadSchema(
            f"the manifests disagree: {disagreeing[0]}{more}; filter them in separate runs, or name the column"
        )
    files = [{"path": i.path, "rows": i.rows, "bytes": i.bytes, "fingerprint": i.fingerprint} for i in infos]
    identity = [files, unreadable, dataclasses.asdict(dataset.roles), dataset.columns, dataset.header, dataset.format]
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    if kept is not None and kept.fingerprint == fingerprint:
        return dataclasses.replace(kept, infos=tuple(infos))
    rows = sum(info.estimated_rows for info in infos)
    size = unit_rows or _size(rows, cores, UNIT_ROWS)
    units = [
        Unit(f"{index:05d}-{part:05d}", _seen(span, infos[index]))
        for index, spans in enumerate(of_all(partial(split, unit_rows=size), infos))
        for part, span in enumerate(spans)
    ]
    for entry, info in zip(files, infos, strict=True):
        entry["urls_only"] = info.roles.url is not None and not info.images
    return Plan(
        fingerprint=fingerprint,
        units=tuple(units),
        image_rows=_size(rows, 2 * cores, IMAGE_ROWS),
        images=any(info.images for info in infos),
        unreadable=tuple(unreadable),
        rows=rows,
        files=tuple(files),
        infos=tuple(infos),
        pins=pins,
    )


def _kept(output: StorePath) -> Plan | None:
    layout = Layout(output)
    with asked(layout.plan, PlanMismatch, SEE_TO_OUTPUT):
        check_output(layout)
        found = known_plan(layout.plan)
    return None if found is None else _load(found)


def _seen(span: Span, info: FileInfo) -> Span:
    return dataclasses.replace(span, fingerprint=info.fingerprint, info=info)


def _outside(paths: list[str], pattern: str, output: StorePath) -> list[str]:
    # Real paths: INPUT may lead to OUTPUT through a link.
    folder = f"{os.path.realpath(output) if is_local(output) else str(output).rstrip('/')}/"
    found = [path for path in paths if not (path if is_url(path) else os.path.realpath(path)).startswith(folder)]
    if not found:
        raise NoInput(f"all that '{pattern}' names lies in OUTPUT {output}; choose another OUTPUT, or another INPUT")
    return found


def _look(dataset: Dataset, known: Mapping[str, FileInfo], path: str) -> FileInfo | UnreadableFile:
    try:
        return inspect(path, dataset, known.get(path))
    except UnreadableFile as error:
        return error


def _size(rows: int, cores: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(bounds[1], -(-rows // (UNITS_PER_CORE * cores))))


def part_of(plan: Plan, units: Sequence[Unit]) -> Plan:
    """The plan of some of its units; another plan to `keep_plan`, since totals are of these units alone."""
    identity = json.dumps([plan.fingerprint, [unit.name for unit in units]])
    return dataclasses.replace(
        plan,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        units=tuple(units),
        unreadable=(),
        rows=sum(unit.span.rows for unit in units),
    )


def keep_plan(path: StorePath, plan: Plan) -> Plan:
    """The plan of the output folder: the one that lies there, or this one, written there. Of shards that start at the
    same moment, the first one's holds for all.

    Raises:
        PlanMismatch: the one that lies there is of another input.
        WrongUse: see `check_output`.
    """
    if not path.exists():
        check_output(Layout(path.parent.parent))
        if publish_first(path, _content(plan)):
            return plan
    existing = known_plan(path) or {}
    if existing.get("fingerprint") != plan.fingerprint:
        before = {entry["path"]: entry["fingerprint"] for entry in existing.get("files", ())}
        now = {str(entry["path"]): entry["fingerprint"] for entry in plan.files}
        changed = sorted(set(before.items()) ^ set(now.items()))
        what = changed[0][0] if changed else "the columns that are read"
        raise PlanMismatch(
            f"{path.parent.parent} was made from another input (differs: {what}); choose "
            "another OUTPUT, or remove that folder to start anew"
        )
    kept = _load(existing)
    if [(info.stamp, info.read_as) for info in kept.infos] == [(info.stamp, info.read_as) for info in plan.infos]:
        return kept
    # Files were touched, or are read otherwise: the units stay, and the next run does not look at them again.
    kept = dataclasses.replace(kept, infos=plan.infos)
    publish_json(path, _content(kept))
    return kept


def known_plan(path: StorePath) -> dict[str, Any] | None:
    """The content of a plan, None where there is none.

    Raises:
        PlanMismatch: there is a file, and it is no plan.
    """
    if not path.exists():
        return None
    found, why = None, ""
    try:
        found = read_json(path)
    except Garbled as error:
        why = f" ({error.__cause__})"
    if isinstance(found, dict) and {"fingerprint", "files", "units"} <= found.keys():
        return found
    raise PlanMismatch(
        f"{path} is no plan any more{why}, and nothing else says which rows the units are that {path.parent.parent} "
        "holds; put it back, choose another OUTPUT, or remove that folder to start anew"
    )


def load_plan(path: StorePath) -> Plan:
    """The plan that `keep_plan` wrote.

    Raises:
        FileNotFoundError, PlanMismatch: it is gone, or is no plan any more.
    """
    found = known_plan(path)
    if found is None:
        raise FileNotFoundError(f"{path} is not there; was the output folder removed, or is it out of workers' sight?")
    return _load(found)


def _content(plan: Plan) -> dict[str, Any]:
    """The plan for JSON; what was seen of a file once, not with every span of it."""
    plain = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan) if field.name != "infos"}
    names = [field.name for field in dataclasses.fields(Span) if field.name != "info"]
    units = [{"name": unit.name, "span": {name: getattr(unit.span, name) for name in names}} for unit in plan.units]
    return {**plain, "units": units, "inspected": inspections.to_json(plan.infos)}


def _load(content: Mapping[str, Any]) -> Plan:
    plain = dict(content)
    seen = plain.pop("inspected", None)
    infos = inspections.from_json(seen, content["files"]) if seen else ()
    info_of = {info.path: info for info in infos}
    known = {entry["path"]: entry["fingerprint"] for entry in content["files"]}
    spans = (
        {"fingerprint": known[entry["span"]["path"]], "info": info_of.get(entry["span"]["path"]), **entry["span"]}
        for entry in content["units"]
    )
    units = tuple(Unit(entry["name"], Span(**span)) for entry, span in zip(content["units"], spans, strict=True))
    lists = {name: tuple(content[name]) for name in ("unreadable", "files")}
    return Plan(**{**plain, **lists, "units": units, "infos": infos})
