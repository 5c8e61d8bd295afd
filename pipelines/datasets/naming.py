"""Names as people are shown them."""

from __future__ import annotations

from collections.abc import Sequence


def listing(names: Sequence[str], limit: int = 12) -> str:
    """Returns the names as one line, cut after `limit` of them; "nothing" where there are none."""
    if not names:
        return "nothing"
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
