"""Publish local files so that a kill at any moment leaves them complete or absent."""

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from open_diht.common.lease import check_fence

TEMPORARY = ".tmp-diht-"
"""Prefix of files and folders that are being written. It names this program, because leftovers of
killed runs are deleted by their name, and other programs use `.tmp-` too."""

DISK_REMEDIES = dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Make room") | {
    # Linux makes a file system read-only after an error of the disk.
    errno.EROFS: "Make its file system writable again",
    errno.EIO: "Check the disk",
}
"""The remedy for each error of a disk while a command works, by its number."""

# The suffix is made by `temporary_beside`, or by `tempfile` when it is called with this prefix, a
# name and a hyphen.
_FRESH = re.compile(rf"{re.escape(TEMPORARY)}.+-[0-9a-z_]{{8}}", re.DOTALL)


def temporary_beside(path: Path) -> Path:
    """Return a new temporary path in the folder of `path`, with another ending, so that listings by
    ending skip it."""
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")


def is_temporary(name: str) -> bool:
    """Return whether the name of a file or folder has the form of the temporary ones, see
    `_FRESH`."""
    return _FRESH.fullmatch(name) is not None


def remove_temporaries(folder: Path) -> None:
    """Delete this program's temporary files directly in `folder`, including those that other
    processes write now."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if not is_temporary(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. On leaving, the file is flushed to disk and atomically
    renamed to `path`. After an error `path` stays as it was, as it does if `check_fence` raises
    one."""
    check_fence(path)  # before a folder that was removed is made again
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            check_fence(path)  # if the folder is removed after it, so is the temporary file
            os.replace(temporary, path)
            sync(path.parent)  # so that the new name survives a power failure
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError in the block that has none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder. On leaving, it is flushed to disk and renamed to `path`. An
    existing folder is replaced by two renames: a kill between them leaves neither the old nor the
    new one at `path`.
    """
    check_fence(path)
    temporary = temporary_beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            sync(written)
        check_fence(path)
        if path.exists():
            old = temporary_beside(path)
            os.rename(path, old)  # a rename cannot replace a folder with content
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_bytes(path: Path, content: bytes) -> None:
    """Write a file of bytes, complete or not at all."""
    with published(path) as temporary:
        temporary.write_bytes(content)


def publish_json(path: Path, value: Any) -> None:
    """Write a value as JSON, complete or not at all. Raise ValueError for NaN or infinity, which
    JSON lacks."""
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    # Lone surrogates, which file names can hold, become escapes that JSON knows.
    publish_bytes(path, text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Return None if there is no such file. Raise ValueError if
    it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
