"""Wording of messages: suggestions for mistyped names, and counts."""

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known name closest to `name`, ignoring case, or "" if
    none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f" (did you mean '{by_folded[close[0]]}'?)" if close else ""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, given in the singular: "1 unit", "2 units", "1,000 units"."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


# Characters of a name in a message: about a line of a terminal.
_LONGEST = 80


def listing(names: Sequence[str], limit: int = 12) -> str:
    """Return the names as one line, cut after `limit` of them, or "nothing" if there are none. Long
    names, such as lines taken for headers, are cut."""
    if not names:
        return "nothing"
    shown = ", ".join(
        name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in names[:limit]
    )
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
