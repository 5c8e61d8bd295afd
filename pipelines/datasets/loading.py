"""Reads the YAML files that describe data sets, strictly: a mistyped key is an error, never a default."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from pipelines.datasets.dataset import Dataset
from pipelines.datasets.errors import DatasetError
from pipelines.datasets.naming import nearest
from pipelines.datasets.roles import ROLE_NAMES, Roles

_FOLDER = Path(__file__).parent
_TEXTS = (
    "name",
    "title",
    "homepage",
    "where",
    "size",
    "licence",
    "default_glob",
    "format",
    "delimiter",
    "caption_list",
    "notes",
)
_SWITCHES = ("header", "swap_size")
_LISTS = ("columns", "needs")


def dataset_names() -> list[str]:
    """Returns the names of the data sets that come with the project, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_dataset(name_or_path: str) -> Dataset:
    """Returns the description of a data set.

    Args:
        name_or_path: one of `dataset_names()`, or the path of a YAML file (it ends in .yaml or .yml).

    Raises:
        DatasetError: no such name or file, unreadable YAML, an unknown, repeated or missing key, a value of the wrong
            type.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
    elif name_or_path in dataset_names():
        path = _FOLDER / f"{name_or_path}.yaml"
    else:
        names = dataset_names()
        raise DatasetError(
            f"unknown data set '{name_or_path}'{nearest(name_or_path, names)}; known: {', '.join(names)}. "
            "A set of your own is read as 'custom', or described in a file whose path ends in .yaml"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read the data set file {path}: {error}") from error
    try:
        content = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise DatasetError(f"{path} is not valid YAML: {error}") from error
    return _to_dataset(content, path)


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where the plain loader keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _to_dataset(content: object, path: Path) -> Dataset:
    keys = _mapping(content, path, "the file")
    known = {field.name for field in fields(Dataset)}
    _refuse_unknown(keys, known, path, "key")
    required = [f.name for f in fields(Dataset) if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in required if name not in keys]
    if missing:
        raise DatasetError(f"{path}: missing {', '.join(missing)}; every data set file has {', '.join(required)}")
    values: dict[str, Any] = {}
    for key, value in keys.items():
        where = f"{path}: {key}"
        if key in _TEXTS or (key == "pictures_root" and value is not None):
            values[key] = _text(value, where)
        elif key in _SWITCHES:
            if not isinstance(value, bool):
                raise DatasetError(f"{where} is {value!r}; write true or false")
            values[key] = value
        elif key in _LISTS:
            values[key] = _texts(value, where)
        elif key == "roles":
            roles = _mapping(value, path, "roles")
            _refuse_unknown(roles, ROLE_NAMES, path, "role")
            values[key] = Roles(**{role: _text(name, f"{where}.{role}") for role, name in roles.items()})
        elif key == "aliases":
            aliases = _mapping(value, path, "aliases")
            _refuse_unknown(aliases, ROLE_NAMES, path, "role")
            values[key] = {role: _texts(names, f"{where}.{role}") for role, names in aliases.items()}
    try:
        return Dataset(**values)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


def _mapping(value: object, path: Path, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise DatasetError(f"{path}: {what} is {type(value).__name__}, not a mapping of names to values")
    return value


def _refuse_unknown(keys: Mapping[str, Any], known: set[str] | tuple[str, ...], path: Path, what: str) -> None:
    for key in keys:
        if key not in known:
            raise DatasetError(
                f"{path}: unknown {what} '{key}'{nearest(key, known)}; known: {', '.join(sorted(known))}"
            )


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise DatasetError(
            f"{where} is {value!r} ({type(value).__name__}); write a text, in quotes where it looks like something else"
        )
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DatasetError(f"{where} is {value!r}; write a list of names, for example [url, caption]")
    return tuple(_text(item, where) for item in value)
