"""What was seen of files, as a plan keeps it. The files of a manifest mostly have the same columns: these come once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from open_diht.pipelines.datasets import Roles
from open_diht.pipelines.manifests.types import Column, FileInfo

_SHARED = ("format", "compression", "columns", "roles", "images", "read_as")
_OWN = ("stamp", "row_groups", "data_start", "row_bytes")
_ELSEWHERE = ("path", "rows", "bytes", "fingerprint")


def to_json(infos: Sequence[FileInfo]) -> dict[str, Any]:
    """Returns what is not in `files`, see `from_json`, as plain values for JSON."""
    alike: dict[tuple[Any, ...], int] = {}
    files = []
    for info in infos:
        number = alike.setdefault(tuple(getattr(info, name) for name in _SHARED), len(alike))
        files.append({"alike": number} | {name: getattr(info, name) for name in _OWN})
    return {"alike": [_plain(dict(zip(_SHARED, values, strict=True))) for values in alike], "files": files}


def from_json(content: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> tuple[FileInfo, ...]:
    """Returns what was kept.

    Args:
        content: from `to_json`.
        files: path, rows, bytes and fingerprint of each, in the same order.
    """
    alike = [
        {
            **shared,
            "columns": tuple(Column(**column) for column in shared["columns"]),
            "roles": Roles(**shared["roles"]),
        }
        for shared in content["alike"]
    ]
    infos = []
    for entry, own in zip(files, content["files"], strict=True):
        stamp = None if own["stamp"] is None else (own["stamp"][0], tuple(own["stamp"][1]))
        rest = {"stamp": stamp, "row_groups": tuple(own["row_groups"])}
        known = {name: entry[name] for name in _ELSEWHERE}
        infos.append(FileInfo(**{**alike[own["alike"]], **known, **{name: own[name] for name in _OWN}, **rest}))
    return tuple(infos)


def _plain(shared: dict[str, Any]) -> dict[str, Any]:
    return {**shared, "columns": [asdict(column) for column in shared["columns"]], "roles": asdict(shared["roles"])}
