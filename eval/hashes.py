"""Hashes of values, under which things computed from them are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

SHORT, PIECE = 64, 4096  # entries of a list that are looked at one by one, and that become JSON at once


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
        for index, one in enumerate(value):
            yield "," if index else "["
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
