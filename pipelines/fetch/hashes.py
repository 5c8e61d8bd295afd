"""Check fetched files against the hashes in the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MISMATCH = "the image does not match the manifest's hash"
_KINDS = ("sha256", "md5")


@dataclass(frozen=True)
class Expected:
    """The hash that a row states for its image file."""

    kind: str
    """sha256 or md5."""
    digest: str
    """Hex digits, lower case."""

    def holds(self, digests: Mapping[str, str]) -> bool:
        """Return whether a file with these digests (by kind) matches the row's hash."""
        return digests[self.kind] == self.digest


def expected_of(row: Mapping[str, Any]) -> Expected | None:
    """Return a row's hash: SHA-256 if present, else MD5, else None."""
    for kind in _KINDS:
        if digest := (row[kind] or "").strip().lower():
            return Expected(kind, digest)
    return None


def digests_of(body: bytes, rows: Iterable[Expected | None]) -> dict[str, str]:
    """Return a file's hex digests by kind: SHA-256, and MD5 if one of the rows that share the file needs it."""
    kinds = {"sha256"} | {row.kind for row in rows if row}
    return {kind: hashlib.new(kind, body, usedforsecurity=False).hexdigest() for kind in sorted(kinds)}


def is_nobodys(digests: Mapping[str, str], rows: Collection[Expected | None]) -> bool:
    """Return whether a file contradicts the hash of every row that shares it; False without rows. A row without a hash
    (None) accepts any file."""
    return bool(rows) and all(row is not None and not row.holds(digests) for row in rows)
