"""Words of messages: the name that somebody mistyped, and counts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)" for the known name closest to `name`, "" where none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f" (did you mean '{by_folded[close[0]]}'?)" if close else ""


def counted(count: int, noun: str) -> str:
    """Returns "1 unit", "2 units", "1,000 units" for the noun "unit"."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"
