"""Convert addresses of pages to queries, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from open_diht.pipelines.view.output import ENDS
from open_diht.pipelines.view.query import BadAddress, Bounds, Place, Query

BOUNDS = ("complexity", "overlap", "values")
_LONGEST = 1_000
"""Maximum number of characters of a text to search for."""


def query_of(given: Mapping[str, str], columns: Sequence[str]) -> Query:
    """Parse the query in an address. Raise BadAddress if a number is invalid, or there is no such end or column."""
    end, _, reason = given.get("end", "").partition(":")
    if end and end not in ENDS:
        raise BadAddress(f"rows end as one of {', '.join(ENDS)}, not as {end[:40]!r}")
    column = given.get("column", "")
    if column and column not in columns:
        raise BadAddress(f"no numeric column {column[:40]!r}; choose one of {', '.join(columns) or 'none'}")
    bounds = {name: Bounds(low=_number(given, f"{name}_low"), high=_number(given, f"{name}_high")) for name in BOUNDS}
    return Query(
        end=end,
        reason=reason[:_LONGEST] if end in ("rejected", "dead_letter") else "",
        caption=given.get("caption", "")[:_LONGEST],
        read=given.get("read", "")[:_LONGEST],
        column=column,
        **bounds,
    )


def address_of(query: Query, start: Place | None = None) -> str:
    """Return the address of a page of rows that begins at a place, or at the first row."""
    said = {name: getattr(query, name) for name in ("caption", "read", "column")}
    said["end"] = end_of(query.end, query.reason)
    for name in BOUNDS:
        bounds: Bounds = getattr(query, name)
        said |= {f"{name}_low": bounds.low, f"{name}_high": bounds.high}
    if start is not None:
        said["from"] = str(start)
    words = {
        name: repr(value).removesuffix(".0") if isinstance(value, float) else value for name, value in said.items()
    }
    return "/rows?" + urlencode({name: value for name, value in words.items() if value not in ("", None)})


def end_of(end: str, reason: str) -> str:
    """Return an end and a reason as one parameter of an address."""
    return f"{end}:{reason}" if reason else end


def _number(given: Mapping[str, str], name: str) -> float | None:
    text = given.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadAddress(f"{name.replace('_', ' ')} is {text[:40]!r}, which is not a number")
    return value
