"""Files and folders, local or behind an fsspec URL, in a few functions."""

from __future__ import annotations

import hashlib
import os
from typing import IO, Any

import fsspec  # type: ignore[import-untyped, unused-ignore]

from pipelines.manifests.errors import UnreadableFile, reading

_FINGERPRINT_BYTES = 64 * 2**10


def is_url(path: str) -> bool:
    """Says whether a path has a protocol (memory://, s3://, ...) and so is fsspec's; file:// counts as local."""
    return "://" in path and not path.startswith("file://")


def local_path(path: str) -> str:
    """Returns a local path without file:// and absolute, since workers may run in another folder."""
    return os.path.abspath(path.removeprefix("file://"))


def file_system(path: str) -> tuple[Any, str]:
    """Returns the file system of a path or URL and the path inside it."""
    fs, inside = fsspec.core.url_to_fs(path if is_url(path) else local_path(path))
    return fs, inside


def open_file(path: str) -> IO[bytes]:
    """Opens a file for reading and seeking. Raises what the file system raises: wrap it in `reading`."""
    if not is_url(path):
        return open(local_path(path), "rb")
    fs, inside = file_system(path)
    handle: IO[bytes] = fs.open(inside, "rb")
    return handle


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
    with reading(path), open_file(path) as handle:
        digest.update(handle.read(_FINGERPRINT_BYTES))
        handle.seek(max(size - _FINGERPRINT_BYTES, 0))
        digest.update(handle.read(_FINGERPRINT_BYTES))
    return f"{size}-{digest.hexdigest()[:16]}"
