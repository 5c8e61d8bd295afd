"""YAML files and `key=value` words to a `Config`: typed, nothing unknown, errors that name the place.

Anything a dataclass does not declare is refused with the nearest name. Values keep their types: a float may be written
as an integer, nothing else is converted.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from trainer.config import Config

FOLDER = Path(__file__).with_name("configs")
T = TypeVar("T")


class BadConfig(ValueError):
    """A configuration cannot be used; the message names key, value and remedy."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: 5e-4 is a number, as everyone expects, and not a string."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def config_names() -> list[str]:
    """Names of the configurations that come with the trainer."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_config(name: str, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None) -> Config:
    """The configuration called `name`, or in the YAML file `name`, with `section.key=value` words on top.

    `base` lies on top of the file and under the words. Raises `BadConfig`.
    """
    values = merged(_read(_path(name)), base or {})
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise BadConfig(f"{word!r} is not key=value, for example loss.beta=0.5")
        values = merged(values, _nested(key.split("."), parse_value(text, key)))
    return build(Config, values)


def parse_value(text: str, where: str) -> Any:
    """A word of the command line as YAML reads it."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise BadConfig(f"{where}: {text!r} is not a YAML value: {_one_line(error)}") from error


def _path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise BadConfig(f"there is no configuration file {name}")
        return Path(name)
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = config_names()
        raise BadConfig(
            f"unknown configuration {name!r}{_nearest(name, known)}; choose {', '.join(known)}, or a YAML file"
        )
    return path


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path} is not YAML: {_one_line(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BadConfig(f"{path} holds {type(values).__name__}, not sections with keys")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    parent_path = path.parent / f"{parent}.yaml" if "/" not in str(parent) else path.parent / str(parent)
    if not parent_path.is_file() and parent in config_names():
        parent_path = FOLDER / f"{parent}.yaml"
    if not parent_path.is_file():
        raise BadConfig(f"{path} extends {parent!r}, but there is no file {parent_path}")
    if parent_path.resolve() in (chain := (*below, path.resolve())):
        raise BadConfig(f"{path} extends itself, by way of {parent_path}")
    return merged(_read(parent_path, chain), values)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, with `above` where both say something; sections are merged key by key."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return value


def build(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from plain values. Raises `BadConfig` for unknown, missing and ill-typed ones."""
    hints = get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            raise BadConfig(f"unknown key {where}{key}{_nearest(str(key), list(fields))}; known: {', '.join(fields)}")
        arguments[key] = _convert(hints[key], value, f"{where}{key}")
    for name, item in fields.items():
        needed = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if needed and name not in arguments:
            raise BadConfig(f"{where}{name} is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise BadConfig(str(error)) from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _convert(next(kind for kind in inner if kind is not type(None)), value, where)
    if origin is Literal:
        if value not in inner:
            raise BadConfig(
                f"{where} is {value!r}{_nearest(str(value), list(inner))}; choose {', '.join(map(str, inner))}"
            )
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise BadConfig(f"{where} is {value!r}; it must be a section with keys")
        return build(hint, value, f"{where}.")  # type: ignore[arg-type]
    if origin is tuple:
        return _convert_tuple(inner, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise BadConfig(f"{where} is {value!r}; it must be keys with values")
        return {str(key): _convert(inner[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise BadConfig(f"{where} is {value!r}; it must be {_KINDS.get(hint, hint.__name__)}")
    return value


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _convert_tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise BadConfig(f"{where} is {value!r}; it must be a list")
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_convert(inner[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(inner):
        raise BadConfig(f"{where} has {len(value)} values; it must have {len(inner)}")
    return tuple(_convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(inner, value, strict=True)))


def plain(value: Any) -> Any:
    """A configuration as values that YAML and JSON can hold; `build` makes an equal one of them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Dotted names of what differs between two plain configurations."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = dict.fromkeys([*one, *other])
        return [name for key in keys for name in differences(one.get(key), other.get(key), f"{where}{key}.")]
    return [] if one == other else [where.rstrip(".")]


def _nearest(name: str, known: Sequence[Any]) -> str:
    close = difflib.get_close_matches(name, [str(item) for item in known], n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
