"""Format lists of names for messages."""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 80


def listing(names: Sequence[str], limit: int = 12) -> str:
    """Return the names as one line, cut after `limit` of them, or "nothing" if there are none. Long names, as of lines
    taken for headers, are cut."""
    if not names:
        return "nothing"
    shown = ", ".join(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
