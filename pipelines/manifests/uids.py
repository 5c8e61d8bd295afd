"""The identity of a row, and of its pair: the same on every run, machine, file order and split."""

from __future__ import annotations

import hashlib
import re

_HEX = re.compile(r"[0-9a-fA-F]{32}")


def make_uid(*, url: str | None, caption: str | None, own: str | None = None, stand_in: str | None = None) -> str:
    """Returns the uid of a row, 32 lower-case hex digits (128 bits).

    The manifest's own uid is used where it is 32 hex digits, so that subsets fit DataComp's. Another own id is hashed
    together with url and caption: ids such as row numbers repeat between files, and alone would make strangers equal.
    Without own id it is the SHA-256 of url, NUL, caption.

    Args:
        url: the row's url; None or "" where it has none.
        caption: its caption as the file has it; None counts as "".
        own: the manifest's own id of the row.
        stand_in: what tells pictures apart where the url is absent (path, tar member, hash of the picture).
    """
    if own is not None and is_uid(own):
        return own.lower()
    parts = (url or stand_in or "", caption or "")
    return _digest(*(parts if own is None or own == "" else (own, *parts)))


def make_pair(*, url: str | None, caption: str | None, stand_in: str | None = None) -> str | None:
    """Returns what is equal for equal pairs, whatever ids they have: the uid that the row would have without an own id.
    None where nothing names the picture, so that only its bytes can tell. The arguments are those of `make_uid`."""
    name = url or stand_in
    return _digest(name, caption or "") if name else None


def is_uid(own: str) -> bool:
    """Says whether an own id of the manifest is the uid itself."""
    return _HEX.fullmatch(own) is not None


def _digest(*parts: str) -> str:
    # surrogatepass: JSON escapes can hold half characters, which plain UTF-8 refuses.
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
