"""Text of strangers made safe to show, and numbers as people read them."""

from __future__ import annotations

import html
import unicodedata

_ACTING = frozenset(
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)


def plain(text: str, limit: int = 300) -> str:
    """`text` on one line, cut to `limit`, with characters spelled out that act without being seen; not yet escaped."""
    cut = text if len(text) <= limit else text[: max(1, limit - 1)].rstrip() + "\u2026"
    return "".join(_plain(char) for char in cut)


def attribute(text: str, limit: int = 300) -> str:
    """`text` for use between double quotes or as the content of an SVG text."""
    return html.escape(plain(text, limit))


def show(text: str, limit: int = 300) -> str:
    """`text` as HTML in an element of its own, so that its writing direction does not leak into the page."""
    return f'<bdi dir="auto">{attribute(text, limit)}</bdi>'


def cell(text: str) -> str:
    """`text` for a cell of a Markdown table."""
    return plain(text, 400).replace("\\", "\\\\").replace("|", "\\|")


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent: "68.0"; a dash where there is none."""
    return "\u2013" if value is None else f"{100 * value:.{digits}f}"


def _plain(char: str) -> str:
    if char in "\t\n\r":
        return " "
    if char in _ACTING or unicodedata.category(char) in ("Cc", "Cs"):
        return f"[U+{ord(char):04X}]"
    return char
