"""Hashes of values, used as keys for results computed from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

SHORT, PIECE = 64, 4096  # up to SHORT items are dumped singly; longer lists in pieces of PIECE items


def sha256_of(value: Any) -> str:
    """Return the sha256, in hex, of a value's JSON with sorted keys."""
    digest = hashlib.sha256()
    for text in _json(value):
        digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _json(value: Any) -> Iterator[str]:
    """Yield the JSON in pieces, because that of many captions would take as much memory as they do."""
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
    """Return the sha256, in hex, of a sequence of texts. Lengths are hashed too, so text boundaries count."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        # The length distinguishes ["ab", "c"] from ["a", "bc"].
        digest.update(f"{len(encoded)}:".encode())
        digest.update(encoded)
    return digest.hexdigest()
