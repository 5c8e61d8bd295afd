"""Files that must not change while a run reads them, or rows of two versions lie side by side and nothing says so."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from pipelines.manifests.errors import ManifestError
from pipelines.manifests.files import file_system, fingerprint, is_url, local_path
from pipelines.manifests.spans import Span
from pipelines.store.storage import many_at_once, stamp_of

Stamp = tuple[int, tuple[str, ...]]
"""Bytes of a file, and what changes when it is written to."""


class FileChanged(ManifestError):
    """A file is not what it was when its spans were cut. What was read of it must not be used."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)  # all arguments, so that the exception survives pickling
        self.path = path
        """The file."""
        self.what = what
        """How it differs."""

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


def stamp(path: str) -> Stamp | None:
    """Returns what changes when a file is written to, by one request; None where there is no file."""
    try:
        if not is_url(path):
            status = os.stat(local_path(path))
            return status.st_size, (str(status.st_mtime_ns),)
        fs, inside = file_system(path)
        fs.invalidate_cache(inside)  # clients remember what they have listed
        info = fs.info(inside)
    except FileNotFoundError:
        return None
    return int(info["size"] or 0), stamp_of(info)


def stamps_of(paths: Iterable[str]) -> dict[str, Stamp | None]:
    """Returns the stamps of files by path."""
    known = list(paths)
    found = many_at_once(stamp, known) if any(map(is_url, known)) else map(stamp, known)
    return dict(zip(known, found, strict=True))


@contextmanager
def unchanged(span: Span) -> Iterator[None]:
    """Watches the file of a span while the `with` block reads it. A span without fingerprint is not watched.

    Raises:
        FileChanged: the file is not the one that the span was cut from, or was written to in the meantime; also where
            the block broke off, for then that is why.
    """
    if not span.fingerprint:
        yield
        return
    before = stamp(span.path)
    if before is None or _fingerprint(span.path, before) != span.fingerprint:
        raise FileChanged(span.path, difference(before))
    try:
        yield
    finally:
        if (after := stamp(span.path)) != before:
            raise FileChanged(span.path, difference(after))


def difference(found: Stamp | None) -> str:
    """Says how a file differs, for a message that begins with its path."""
    return "is gone" if found is None else f"has changed while it was read (it has {found[0]:,} bytes now)"


@lru_cache(maxsize=4096)
def _fingerprint(path: str, known: Stamp) -> str:
    """The fingerprint of a file, taken once as long as its stamp stays."""
    return fingerprint(path, known[0])
