"""Files and folders, local or behind an fsspec URL, in a few functions."""

from __future__ import annotations

import hashlib
import os
from typing import IO, Any

import fsspec  # type: ignore[import-untyped, unused-ignore]

from pipelines.manifests.errors import UnreadableFile, reading

_FINGERPRINT_BYTES = 64 * 2**10
_AHEAD_BYTES = 2 * 2**20
"""What a read of a remote file fetches beyond what it is asked for. Clients' own values (S3: 50 MB) are for who reads a
file to its end; here spans of it are read, and heads."""


def is_url(path: str) -> bool:
    """Says whether a path has a protocol (memory://, s3://, ...) and so is fsspec's; file:// counts as local."""
    return "://" in path and not path.startswith("file://")


def local_path(path: str) -> str:
    """Returns a local path without file://, with ~ expanded, which a shell leaves alone in quotes, and absolute, since
    workers may run in another folder."""
    return os.path.abspath(os.path.expanduser(path.removeprefix("file://")))


def file_system(path: str) -> tuple[Any, str]:
    """Returns the file system of a path or URL and the path inside it."""
    fs, inside = fsspec.core.url_to_fs(path if is_url(path) else local_path(path))
    return fs, inside


def open_file(path: str, *, parts: bool = False) -> IO[bytes]:
    """Opens a file for reading and seeking; `parts`: nothing is fetched but what is asked for. Raises what the file
    system raises: wrap it in `reading`."""
    if not is_url(path):
        return open(local_path(path), "rb")
    fs, inside = file_system(path)
    how = {"cache_type": "none"} if parts else {"block_size": _AHEAD_BYTES}
    handle: IO[bytes] = fs.open(inside, "rb", **how)
    return handle


def read_part(path: str, start: int, stop: int) -> bytes:
    """Returns bytes [start, stop) of a file, fewer where it ends before. Raises what the file system raises."""
    if is_url(path):
        fs, inside = file_system(path)
        content: bytes = fs.cat_file(inside, start=start, end=stop)
        return content
    with open(local_path(path), "rb") as handle:
        handle.seek(start)
        return handle.read(stop - start)


def file_size(path: str) -> int:
    """Returns the size of a file in bytes. Raises UnreadableFile where it is absent, no file, or empty."""
    with reading(path):
        if is_url(path):
            fs, inside = file_system(path)
            details = fs.info(inside)
            is_folder, size = details["type"] == "directory", details["size"]
        else:
            status = os.stat(local_path(path))
            is_folder, size = os.path.isdir(local_path(path)), status.st_size
    if is_folder:
        raise UnreadableFile(path, "IsADirectoryError", "this is a folder; name the files in it")
    if not size:
        raise UnreadableFile(path, "EmptyFile", "the file has 0 bytes; fetch it again, or take it out of the input")
    return int(size)


def fingerprint(path: str, size: int) -> str:
    """Returns "<size>-<16 hex digits>" from the first and last 64 KiB of a file of `size` bytes."""
    digest = hashlib.sha256()
    with reading(path):
        digest.update(read_part(path, 0, _FINGERPRINT_BYTES))
        last = max(size - _FINGERPRINT_BYTES, 0)
        digest.update(read_part(path, last, last + _FINGERPRINT_BYTES))
    return f"{size}-{digest.hexdigest()[:16]}"
