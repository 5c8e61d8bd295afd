"""Publishing files so that a kill at any moment leaves them complete or absent, and hashing them once."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BLOCK = 1 << 20
SHORT, PIECE = 64, 4096  # entries of a list that are looked at one by one, and that become JSON at once


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; on leaving, the file is flushed to disk and appears under `path` at once.
    On an error nothing appears."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: numpy appends one of its own to names that lack it.
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def publish_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; not-a-number is an error, since other programs could not read it."""
    with published(path) as temporary:
        text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        # Lone surrogates, which file names can hold, become escapes that JSON knows.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is no file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def sha256_file(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(value: Any) -> str:
    """sha256, in hex, of a value's JSON with sorted keys: the name under which something computed from it is kept."""
    digest = hashlib.sha256()
    for text in _json(value):
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _json(value: Any) -> Iterator[str]:
    """The JSON in pieces: that of many captions is as large as they are, and need not be there at once."""
    if not isinstance(value, list | tuple) or not value:
        yield _dumped(value)
    elif len(value) <= SHORT:
        for place, one in enumerate(value):
            yield "," if place else "["
            yield from _json(one)
        yield "]"
    else:
        for start in range(0, len(value), PIECE):
            yield ("," if start else "[") + _dumped(value[start : start + PIECE])[1:-1]
        yield "]"


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)


def sha256_texts(texts: Iterable[str]) -> str:
    """sha256, in hex, of a sequence of texts; two sequences with the same joined text differ."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(encoded)}:".encode())
        digest.update(encoded)
    return digest.hexdigest()
