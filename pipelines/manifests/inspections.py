"""Inspections of files as a plan stores them. Facts that several files share are stored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from open_diht.pipelines.datasets import Roles
from open_diht.pipelines.manifests.types import Column, FileInfo

_SHARED = ("format", "compression", "columns", "roles", "images", "read_as")
_OWN = ("stamp", "row_groups", "data_start", "row_bytes")
_ELSEWHERE = ("path", "rows", "bytes", "fingerprint")


def to_json(infos: Sequence[FileInfo]) -> dict[str, object]:
    """Return the facts that `files` of `from_json` does not have, as JSON values."""
    alike: dict[tuple[Any, ...], int] = {}
    shared: list[dict[str, object]] = []
    files: list[dict[str, object]] = []
    for info in infos:
        number = alike.setdefault(tuple(getattr(info, name) for name in _SHARED), len(alike))
        if number == len(shared):
            plain = asdict(info)
            shared.append({name: plain[name] for name in _SHARED})
        files.append({"alike": number} | {name: getattr(info, name) for name in _OWN})
    return {"alike": shared, "files": files}


def from_json(content: Mapping[str, Any], files: Sequence[Mapping[str, Any]]) -> tuple[FileInfo, ...]:
    """Return the stored inspections from the result of `to_json` and the entries of the files, in the same order."""
    roles = [{**one["roles"], "captions": tuple(one["roles"].get("captions", ()))} for one in content["alike"]]
    alike = [
        {**one, "columns": tuple(Column(**column) for column in one["columns"]), "roles": Roles(**mine)}
        for one, mine in zip(content["alike"], roles, strict=True)
    ]
    infos = []
    for entry, own in zip(files, content["files"], strict=True):
        known = {**alike[own["alike"]], **{name: entry[name] for name in _ELSEWHERE}, **{n: own[n] for n in _OWN}}
        known["row_groups"] = tuple(own["row_groups"])
        known["stamp"] = None if own["stamp"] is None else (own["stamp"][0], tuple(own["stamp"][1]))
        infos.append(FileInfo(**known))
    return tuple(infos)
