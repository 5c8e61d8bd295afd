"""The manifest's hashes: whether what came is what a row was made with."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MISMATCH = "the image is another than the manifest's"
_KINDS = ("sha256", "md5")


@dataclass(frozen=True)
class Expected:
    """The hash that a row has of its image's file."""

    kind: str
    """sha256 or md5."""
    digest: str
    """Hex digits, lower case."""

    def holds(self, digests: Mapping[str, str]) -> bool:
        """Whether a file with these digests, by kind, is the row's."""
        return digests[self.kind] == self.digest


def expected_of(row: Mapping[str, Any]) -> Expected | None:
    """A row's hash, the SHA-256 where it has both kinds; None where it has none."""
    for kind in _KINDS:
        if digest := (row[kind] or "").strip().lower():
            return Expected(kind, digest)
    return None


def digests_of(body: bytes, rows: Iterable[Expected | None]) -> dict[str, str]:
    """Digests of a file by kind: its SHA-256, and what else the rows that share it need."""
    kinds = {"sha256"} | {row.kind for row in rows if row}
    return {kind: hashlib.new(kind, body, usedforsecurity=False).hexdigest() for kind in sorted(kinds)}


def is_nobodys(digests: Mapping[str, str], rows: Collection[Expected | None]) -> bool:
    """Whether a file is another than every single one of `rows` was made with."""
    return bool(rows) and all(row is not None and not row.holds(digests) for row in rows)
