"""Open and decompress files on a disk or at an fsspec URL, and detect files that change during a
run.

A file that changes while it is read would silently mix rows of two versions.
"""

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from typing import IO, Any, Self, TypeVar, cast

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from open_diht.common.hub import is_pinned
from open_diht.common.stores import (
    file_system,
    in_words,
    is_outage,
    is_remote,
    local_path,
    many_at_once,
    stamp_of,
    translated,
)
from open_diht.pipelines.manifests.types import (
    Compression,
    FileChanged,
    Span,
    Stamp,
    Unreachable,
    UnreadableFile,
)

_T = TypeVar("_T")
_FINGERPRINT_BYTES = 64 * 2**10
"""Bytes at each end of a file that its fingerprint covers: two small requests to a store, even for
a huge file."""
_AHEAD_BYTES = 2 * 2**20
"""Read-ahead for a remote file, in bytes. Clients' defaults (S3: 50 MB) suit readers of whole
files; we read spans and heads."""
_REMEMBERED_BYTES = 16 * 2**20
_REMEMBERED_PARTS = 256
"""Most cached bytes and parts of a remote file that is read in parts."""
_UNPACKED_BYTES = 16 * 2**10
"""Number of bytes that are decompressed at a time. At most this many good bytes are lost before
corrupt ones."""


# fsspec raises ValueError for an unknown protocol and ImportError for one whose package is not
# installed.
_BROKEN = (OSError, EOFError, zlib.error, pa.ArrowException, ValueError, ImportError)


def reading(path: str) -> AbstractContextManager[None]:
    """Convert exceptions of libraries in the `with` block: an outage (see `is_outage`) becomes
    Unreachable, and a damaged, absent or unreadable file becomes UnreadableFile. Other exceptions
    pass."""
    return translated(partial(_reading, path))


def _reading(path: str, error: Exception) -> Exception | None:
    if (unreachable := _unreachable(path, error)) is not None:
        return unreachable
    if not isinstance(error, _BROKEN):
        return None
    # The libraries quote bytes of the file and write multi-line messages.
    message = " ".join("".join(sign if sign.isprintable() else " " for sign in str(error)).split())
    message = message or "the file ends too early"
    if isinstance(error, ImportError):
        message = f"{message}; install the package that opens such addresses"
    return UnreadableFile(path, type(error).__name__, message)


def _unreachable(path: str, error: Exception) -> Unreachable | None:
    if not is_outage(error, is_remote(path)):
        return None
    return Unreachable(
        f"{path} cannot be read now ({in_words(error)}); check the network, and the credentials and"
        " endpoint of its store"
    )


def guarded(path: str, items: Iterator[_T]) -> Iterator[_T]:
    """Yield the items of a file's reader. An error of the reader becomes one of `reading`."""
    with reading(path):
        yield from items


def open_file(path: str, *, parts: bool = False) -> IO[bytes]:
    """Open a file for reading and seeking. Errors are those of the file system, so wrap it in
    `reading`. With `parts`, only the requested bytes of a remote file are fetched, without
    read-ahead, and recent parts are cached.
    """
    if not is_remote(path):
        return open(local_path(path), "rb")
    fs, inside = file_system(path)
    if parts:
        return cast(IO[bytes], _Parts(fs.open(inside, "rb", cache_type="none")))
    return fs.open(inside, "rb", block_size=_AHEAD_BYTES)


class _Parts(io.RawIOBase):
    """A remote file that is read at distant offsets, some of them twice. Recent parts are
    cached."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._at = 0
        self._size = handle.seek(0, os.SEEK_END)
        self._parts: dict[int, bytes] = {}
        self._held = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        pieces = []
        while self._at < stop:
            start, part = self._part(stop)
            pieces.append(part[self._at - start : stop - start])
            self._at += len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        self._handle.close()
        super().close()

    def _part(self, stop: int) -> tuple[int, bytes]:
        """Return the offset and the bytes of the part that has the next byte to read. If no cached
        part has that byte, fetch the bytes from there to `stop` or to the next cached part."""
        at = self._at
        for start, part in self._parts.items():
            if start <= at < start + len(part):
                return start, part
        self._handle.seek(at)
        # Read up to the next cached part.
        end = min((start for start in self._parts if at < start < stop), default=stop)
        part = self._handle.read(end - at)
        if not part:
            raise EOFError(f"the file ends at byte {at}, and had {self._size} bytes")
        self._parts[at], self._held = part, self._held + len(part)
        while self._held > _REMEMBERED_BYTES or len(self._parts) > _REMEMBERED_PARTS:
            self._held -= len(self._parts.pop(next(iter(self._parts))))  # the oldest part
        return at, part


def open_stream(path: str, compression: Compression) -> IO[bytes]:
    """Open a file for sequential reading, decompressed. Wrap it, and reads from it, in
    `reading`."""
    handle = open_file(path)
    if not compression:
        return handle
    return cast(IO[bytes], _Unpacked(handle, compression))


class _Unpacked:
    """A decompressed stream read in small pieces, because a piece with corrupt data is lost as a
    whole. All bytes of a truncated gzip stream, or of one with a wrong checksum, are read before
    the error is raised."""

    def __init__(self, handle: IO[bytes], compression: Compression) -> None:
        self._handle = handle
        self._stream: Any
        if compression == "gzip":
            self._stream = gzip.GzipFile(fileobj=handle)
        else:
            source = pa.PythonFile(handle, mode="r")
            self._stream = pa.input_stream(source, compression=compression)

    def read(self, size: int) -> bytes:
        return cast(bytes, self._stream.read1(min(size, _UNPACKED_BYTES)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._handle.close()


def read_part(path: str, start: int, stop: int) -> bytes:
    """Return bytes [start, stop) of a file, or fewer if it ends before. Errors are those of the
    file system."""
    if is_remote(path):
        fs, inside = file_system(path)
        return fs.cat_file(inside, start=start, end=stop)
    with open(local_path(path), "rb") as handle:
        handle.seek(start)
        return handle.read(stop - start)


def file_size(path: str) -> int:
    """Return the size of a file in bytes. Raises UnreadableFile if the file is absent, empty or a
    folder, or its server does not state the size; see `reading`."""
    with reading(path):
        if is_remote(path):
            fs, inside = file_system(path)
            details = fs.info(inside)
            is_folder = details["type"] == "directory"
            size = details["size"]
        else:
            status = os.stat(local_path(path))
            is_folder = os.path.isdir(local_path(path))
            size = status.st_size
    if is_folder:
        raise UnreadableFile(path, "IsADirectoryError", "this is a folder; name the files in it")
    if size is None:
        raise UnreadableFile(
            path,
            "UnknownSize",
            "its server does not state its size, so no part of it can be read; download it first",
        )
    if not size:
        raise UnreadableFile(
            path, "EmptyFile", "the file has 0 bytes; fetch it again, or take it out of the input"
        )
    return int(size)


def fingerprint(path: str, size: int) -> str:
    """Return "<size>-<16 hex digits>" from the first and last 64 KiB of a file. Raises as `reading`
    does."""
    digest = hashlib.sha256()
    with reading(path):
        digest.update(read_part(path, 0, _FINGERPRINT_BYTES))
        last = max(size - _FINGERPRINT_BYTES, 0)
        digest.update(read_part(path, last, last + _FINGERPRINT_BYTES))
    return f"{size}-{digest.hexdigest()[:16]}"


def stamp(path: str) -> Stamp | None:
    """Return a value that changes when a file is written to, or None without a file. Some stores
    report only the size (see `telling`). Raise Unreachable if a store does not answer. Other errors
    pass unchanged."""
    with translated(partial(_unreachable, path)):
        try:
            if not is_remote(path):
                status = os.stat(local_path(path))
                return status.st_size, (str(status.st_mtime_ns), str(status.st_ctime_ns))
            fs, inside = file_system(path)
            if not is_pinned(path):
                fs.invalidate_cache(inside)  # clients cache their listings
            info = fs.info(inside)
        except FileNotFoundError:
            return None
    return int(info["size"] or 0), stamp_of(info)


def telling(known: Stamp | None) -> Stamp | None:
    """Return the stamp unless it holds only the size, which another version of the file may
    share."""
    return (
        known
        if known is not None and any(part not in ("None", str(known[0])) for part in known[1])
        else None
    )


def stamps_of(paths: Iterable[str]) -> dict[str, Stamp | None]:
    """Return the stamps of files, by path. Raise as `stamp` does."""
    known = list(paths)
    found = many_at_once(stamp, known) if any(map(is_remote, known)) else map(stamp, known)
    return dict(zip(known, found, strict=True))


@contextmanager
def unchanged(span: Span) -> Iterator[bool]:
    """Check that the file of a span does not change while the `with` block reads it. Yield whether
    the file still has the stamp of `span.info`. Raise FileChanged, also in place of an exception of
    the block, if the file is gone, is not the one that the span was cut from, or changes meanwhile.
    A span without fingerprint is not checked and yields False."""
    if not span.fingerprint:
        yield False
        return
    before = stamp(span.path)
    # Then the fingerprint need not be computed.
    seen = span.info is not None and span.info.stamp == before
    if before is None or (not seen and _fingerprint(span.path, before) != span.fingerprint):
        raise FileChanged(span.path, difference(before))
    try:
        yield seen
    finally:
        if (after := stamp(span.path)) != before:
            raise FileChanged(span.path, difference(after))


def difference(found: Stamp | None) -> str:
    """Return how a file differs, as the end of a message that begins with its path."""
    return (
        "is gone"
        if found is None
        else f"has changed since it was inspected (it has {found[0]:,} bytes now)"
    )


@lru_cache(maxsize=4096)
def _fingerprint(path: str, known: Stamp) -> str:
    """Return the fingerprint of a file, cached by path and stamp."""
    return fingerprint(path, known[0])
