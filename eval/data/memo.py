"""Values computed from files, such as hashes, stored with the file's path, size and modification time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from open_diht.common.files import publish_json, sha256_file
from open_diht.eval.hashes import sha256_of
from open_diht.eval.records import read_record


class Memo:
    """A folder that remembers values computed from files until a size or modification time changes."""

    def __init__(self, folder: Path):
        self._folder = folder

    def of(self, path: Path, what: str, compute: Callable[[Path], Any]) -> Any:
        """Return `compute(path)`, from the record where the file's size and modification time are unchanged."""
        status = path.stat()
        stamp = [str(path.resolve()), status.st_size, status.st_mtime_ns, what]
        # Named without size and time, so that a changed file replaces its record.
        record = self._folder / f"{sha256_of(stamp[:1] + stamp[3:])[:32]}.json"
        known = read_record(record, "stamp", "value")
        if known is None or known["stamp"] != stamp:
            known = {"stamp": stamp, "value": compute(path)}
            publish_json(record, known)
        return known["value"]

    def tree_hash(self, folder: Path) -> str:
        """Return the sha256 over names and contents of all files below `folder`, except behind links to folders."""
        found = (path for path in folder.rglob("*") if path.is_file())
        return self.files_hash(folder, sorted(str(path.relative_to(folder)) for path in found))

    def files_hash(self, folder: Path, names: Sequence[str]) -> str:
        """Return the sha256 over names and contents of files of `folder`, in the order given.

        One record serves all files, because a record per image would be a million files.
        """
        status = [(folder / name).stat() for name in names]
        listing = [[name, one.st_size, one.st_mtime_ns] for name, one in zip(names, status, strict=True)]
        stamp = [str(folder.resolve()), sha256_of(listing)]
        record = self._folder / f"{sha256_of([*stamp, 'files'])[:32]}.json"
        known = read_record(record, "stamp", "value")
        if known is None or known["stamp"] != stamp:
            known = {"stamp": stamp, "value": sha256_of([[name, sha256_file(folder / name)] for name in names])}
            publish_json(record, known)
        return known["value"]
