"""Publishing local files so that a kill at any moment leaves them complete or absent."""

from __future__ import annotations

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

TEMPORARY = ".tmp-diht-"
"""Prefix of files and folders that are being written. It names this program, because what a killed
run leaves is deleted by its name, and other programs use `.tmp-` too."""

# The tail is that of `temporary_beside`, or of `tempfile` where it is given the prefix.
_FRESH = re.compile(rf"{re.escape(TEMPORARY)}.+-[0-9a-z_]{{8}}", re.DOTALL)


def temporary_beside(path: Path) -> Path:
    """A fresh name in the folder of `path`. It does not end as `path` does: who lists files by their ending must not
    meet one that is half written."""
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")


def is_temporary(name: str) -> bool:
    """Return whether `temporary_beside` gave this name to a file or folder."""
    return _FRESH.fullmatch(name) is not None


def remove_temporaries(folder: Path) -> None:
    """Delete what killed runs left directly in `folder`. Files of other programs stay, and no folder
    below is looked into."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if not is_temporary(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; on leaving, the file is flushed to disk and appears under `path` at once.
    On an error nothing appears, and an error of the disk names the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What goes wrong with a file while it is written (a full disk) does not name it: here it does."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """The same for a folder, which is made empty; one that is there is replaced as a whole."""
    temporary = temporary_beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            sync(written)
        if path.exists():
            old = temporary_beside(path)
            os.rename(path, old)
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_bytes(path: Path, content: bytes) -> None:
    """Write a file of bytes."""
    with published(path) as temporary:
        temporary.write_bytes(content)


def publish_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; not-a-number is an error, since other programs could not read it."""
    text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    # Lone surrogates, which file names can hold, become escapes that JSON knows.
    publish_bytes(path, text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def sha256_file(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
