"""The identity of a row: the same on every run, machine, file order and split."""

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
        stand_in: what tells pictures apart where the url is absent (path, tar member, hash of the picture). Without it,
            two different pictures with the same caption would be taken for duplicates.
    """
    if own is not None and _HEX.fullmatch(own):
        return own.lower()
    parts = (url or stand_in or "", caption or "")
    text = "\0".join(parts if own is None or own == "" else (own, *parts))
    # surrogatepass: JSON escapes can hold half characters, which plain UTF-8 refuses.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
