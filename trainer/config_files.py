"""Build a `Config` from YAML files and `key=value` words, with errors that name the place.

Outside of `model.architecture`, a key that no dataclass declares is an error that suggests the
nearest name, if one is close. A float may be written as an integer, lists become tuples, and an
empty section has its defaults; no other plain value is converted.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open_diht.common.fields import BadValue, build
from open_diht.common.yaml_files import BadYaml, parse_yaml, read_yaml
from open_diht.trainer.config import Config
from open_diht.trainer.config_names import SHELF, BadConfig, config_names
from open_diht.trainer.losses import LOSSES, HnNce

_EXCLUDES = {
    "schedule.samples": ("epochs",),
    "schedule.epochs": ("samples",),
    "data.sources": ("loader", "path"),
    "data.loader": ("sources", "subset", "selection", "skip", "captions", "negatives"),
    "data.subset": ("selection",),
    "data.selection": ("subset",),
    "model.name": ("architecture",),
    "model.warm_start": ("warm_start_image", "warm_start_text"),
    "model.warm_start_image": ("warm_start",),
    "model.warm_start_text": ("warm_start",),
}
"""Keys of the same section that each key excludes."""


def load_config(
    name: str,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Load the configuration of a training.

    A value also replaces the file's values that exclude it: `schedule.samples` replaces
    `schedule.epochs`.

    Args:
        name: tiny, vit-b-32 or another of `config_names()`, or the path of a YAML file (with a
            slash in it, or ending in .yaml or .yml).
        overrides: words `section.key=value`, which override the file and `base`.
        base: sections that override the file.
        defaults: sections that the file overrides.

    Returns:
        The checked configuration.

    Examples:
        >>> from open_diht import load_config
        >>> data = {"data": {"sources": [{"path": "/data/cat"}]}}
        >>> config = load_config("vit-b-32", ["loss.beta=0.5"], data)
        >>> config.loss.beta
        0.5

    Raises:
        BadConfig: there is no such configuration, it cannot be read, or a key, value or override is
            wrong.
    """
    given = dict(base or {})
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise BadConfig(f"{word!r} is not key=value, for example loss.beta=0.5")
        try:
            # The settings have it empty, not null.
            value: Any = parse_yaml(text, word) if text else ""
        except BadYaml as error:
            raise BadConfig(str(error)) from None
        for name_of_part in reversed(key.split(".")):
            value = {name_of_part: value}
        given = _joined(given, value)
    file = _read(Path(name) if "/" in name else SHELF.path(name))
    try:
        return build(Config, merged(merged(defaults or {}, file), given))
    except BadValue as error:
        raise BadConfig(str(error)) from None


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    with SHELF.explained(path):
        values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BadConfig(f"{path} holds {type(values).__name__}, not sections with keys")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    parent_path = (
        path.parent / f"{parent}.yaml" if "/" not in str(parent) else path.parent / str(parent)
    )
    if not parent_path.is_file() and parent in config_names():  # one that comes with the trainer
        parent_path = SHELF.path(parent)
    if not parent_path.is_file():
        raise BadConfig(f"{path} extends {parent!r}, but {parent_path} does not exist")
    if parent_path.resolve() in (chain := (*below, path.resolve())):  # a cycle
        raise BadConfig(f"{path} extends itself, by way of {parent_path}")
    return merged(_read(parent_path, chain), values)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two configurations, section by section and key by key. A value of `below` is dropped if
    `above` has the same key, or one that excludes it."""
    return _joined(
        {
            section: _compatible(section, values, above.get(section))
            for section, values in below.items()
        },
        above,
    )


def _compatible(section: str, values: Any, above: Any) -> Any:
    """Return those values of a section that the values `above` do not exclude."""
    if not isinstance(values, Mapping) or not isinstance(above, Mapping):
        return values
    name = str(above.get("name"))
    if section == "loss" and name in LOSSES and name != values.get("name", HnNce.name):
        return {
            key: value for key, value in values.items() if key in LOSSES[name].__dataclass_fields__
        }
    gone = {
        other
        for key, value in above.items()
        if value
        for other in _EXCLUDES.get(f"{section}.{key}", ())
    }
    return {key: value for key, value in values.items() if key not in gone}


def _joined(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        # Two sections. The probabilities of captions are one value.
        both = isinstance(old, Mapping) and isinstance(value, Mapping) and key != "captions"
        result[key] = _joined(old, value) if both else value  # type: ignore[arg-type]
    return result


def plain(value: Any) -> Any:
    """Return a configuration as plain values for YAML and JSON, from which `build` makes an equal
    one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Return the dotted names of the values that differ between two plain configurations."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = dict.fromkeys([*one, *other])
        return [
            name
            for key in keys
            for name in differences(one.get(key), other.get(key), f"{where}{key}.")
        ]
    return [] if one == other else [where.rstrip(".")]
