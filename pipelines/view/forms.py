"""Addresses to queries, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from open_diht.pipelines.view.output import ENDS
from open_diht.pipelines.view.query import Bounds, Place, Query

BOUNDS = ("complexity", "overlap", "action", "values")
_LONGEST = 1_000
"""Characters of a text that is looked for."""


class BadAddress(ValueError):
    """An address that says nothing that can be done; the message says what is wrong."""


def query_of(given: Mapping[str, str], columns: Sequence[str]) -> Query:
    """What an address asks for; `columns` are those that can be compared with numbers.

    Raises:
        BadAddress: a number that is none, an end or column that does not exist.
    """
    end, _, reason = given.get("end", "").partition(":")
    if end and end not in ENDS:
        raise BadAddress(f"rows end as one of {', '.join(ENDS)}, not as {end[:40]!r}")
    column = given.get("column", "")
    if column and column not in columns:
        raise BadAddress(f"there is no column {column[:40]!r} with numbers; there are {', '.join(columns) or 'none'}")
    bounds = {name: Bounds(low=_number(given, f"{name}_low"), high=_number(given, f"{name}_high")) for name in BOUNDS}
    return Query(
        end=end,
        reason=reason[:_LONGEST] if end in ("rejected", "dead_letter") else "",
        caption=given.get("caption", "")[:_LONGEST],
        read=given.get("read", "")[:_LONGEST],
        column=column,
        **bounds,
    )


def place_of(given: Mapping[str, str]) -> Place | None:
    """Where an address asks to begin. Raises BadAddress where that is no place."""
    text = given.get("from", "")
    try:
        return Place.parse(text) if text else None
    except ValueError as error:
        raise BadAddress(str(error)) from error


def address_of(query: Query, start: Place | None = None) -> str:
    """The address of a page of rows."""
    said = {name: getattr(query, name) for name in ("caption", "read", "column")}
    said["end"] = end_of(query.end, query.reason)
    for name in BOUNDS:
        bounds: Bounds = getattr(query, name)
        said |= {f"{name}_low": bounds.low, f"{name}_high": bounds.high}
    if start is not None:
        said["from"] = str(start)
    words = {name: f"{value:g}" if isinstance(value, float) else value for name, value in said.items()}
    return "/rows?" + urlencode({name: value for name, value in words.items() if value not in ("", None)})


def end_of(end: str, reason: str) -> str:
    """An end and a reason as one word of an address."""
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
        raise BadAddress(f"{name.replace('_', ' ')} is {text[:40]!r}, which is no number")
    return value
