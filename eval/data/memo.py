"""Hashes of large files, computed once: kept under the file's path, size and time of change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.files import publish_json, read_json, sha256_file, sha256_of


class Memo:
    """Remembers in `folder` what was computed from a file's content, until the file changes."""

    def __init__(self, folder: Path):
        self._folder = folder

    def of(self, path: Path, what: str, compute: Callable[[Path], Any]) -> Any:
        """`compute(path)`, or what it gave when the file had the same size and time of change. `what` names the
        computation; its value must survive JSON."""
        status = path.stat()
        stamp = [str(path.resolve()), status.st_size, status.st_mtime_ns, what]
        record = self._folder / f"{sha256_of(stamp[:1] + stamp[3:])[:32]}.json"
        known = read_json(record)
        if known is None or known["stamp"] != stamp:
            known = {"stamp": stamp, "value": compute(path)}
            publish_json(record, known)
        return known["value"]

    def file_hash(self, path: Path) -> str:
        """sha256 of the file's content."""
        return self.of(path, "sha256", sha256_file)

    def tree_hash(self, folder: Path) -> str:
        """sha256 over names and contents of all files below `folder`. Kept per folder, under the sizes and times of
        all its files: a record each would be a million records."""
        listing: list[tuple[str, int, int]] = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            status = path.stat()
            listing.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
        stamp = [str(folder.resolve()), sha256_of(listing)]
        record = self._folder / f"{sha256_of([stamp[0], 'tree'])[:32]}.json"
        known = read_json(record)
        if known is None or known["stamp"] != stamp:
            hashes = [[name, sha256_file(folder / name)] for name, _, _ in listing]
            known = {"stamp": stamp, "value": sha256_of(hashes)}
            publish_json(record, known)
        return known["value"]
