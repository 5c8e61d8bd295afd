"""Make untrusted text safe to show: escaped, bounded, and without characters that hide or reorder
others."""

import html
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSEEN = frozenset("\u00ad\u200b\u2060\ufeff")
_BLANKS = frozenset("\t\n\r\u2028\u2029")
_NARROW = frozenset("iIjlft.,:;'|!()[]- ")


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A range of characters and the CSS class it is shown in."""

    start: int
    end: int
    css: str


def is_hidden(char: str) -> bool:
    """Return whether a character is unseen but affects the page: control, bidi, a lone surrogate or
    one of `_UNSEEN`."""
    return char in _BIDI or char in _UNSEEN or unicodedata.category(char) in ("Cc", "Cs")


def plain(text: str, limit: int = 200) -> str:
    """Return `text` on one line, cut to `limit` characters, with hidden characters spelled out. It
    is not escaped."""
    cut = text if len(text) <= limit else text[: max(1, limit - 1)].rstrip() + "\u2026"
    return "".join(
        " " if char in _BLANKS else f"[{_code(char)}]" if is_hidden(char) else char for char in cut
    )


def attribute(text: str, limit: int = 400) -> str:
    """Return `text`, cut to `limit` characters, escaped for use between double quotes or in an SVG
    text."""
    return html.escape(plain(text, limit))


def show(text: str, limit: int = 400) -> str:
    """Return `text`, cut to `limit` characters, as an HTML element whose writing direction does not
    affect the page."""
    return marked(text, (), limit)


def prose(text: str, limit: int = 400) -> str:
    """Return `show` of a sentence of this program, with the text between backticks as code."""
    return re.sub(r"`([^`<]+)`", r"<code>\1</code>", show(text, limit))


def marked(text: str, spans: Iterable[TextSpan], limit: int = 400) -> str:
    """Return `text` as HTML with some ranges marked. They may overlap; ranges beyond the text are
    ignored. A longer text is cut to `limit` characters around the first `overlap` span. Without
    such a span its beginning stays.
    """
    inside = sorted(
        (span for span in spans if 0 <= span.start < span.end <= len(text)),
        key=lambda span: (span.start, span.end),
    )
    first, last = _window(len(text), inside, limit)
    edges = {first, last}
    for span in inside:
        edges.update(edge for edge in (span.start, span.end) if first < edge < last)
    cuts = sorted(edges)
    pieces = ["\u2026"] if first else []
    for start, end in pairwise(cuts):  # between two cuts the same spans apply
        body = "".join(_shown(char) for char in text[start:end])
        for css in sorted({span.css for span in inside if span.start <= start and end <= span.end}):
            body = (
                f"<mark>{body}</mark>" if css == "overlap" else f'<span class="{css}">{body}</span>'
            )
        pieces.append(body)
    if last < len(text):
        pieces.append("\u2026")
    return f'<bdi dir="auto">{"".join(pieces)}</bdi>'


def words(name: str) -> str:
    """Return `text_spotting` as "text spotting"."""
    return name.replace("_", " ")


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage: "46.6 %" or "< 0.1 %". None gives "n/a"."""
    if fraction is None:
        return "n/a"
    return "< 0.1 %" if 0 < fraction < 0.0005 else f"{100 * fraction:.1f} %"


def anchor(name: str) -> str:
    """Return the HTML id of a section: letters, digits and hyphens only."""
    return "r-" + "".join(char if char.isascii() and char.isalnum() else "-" for char in name)


def text_width(text: str, size: float) -> float:
    """Estimate the width of a text in a sans-serif font of a size, both in pixels. No font is
    available to measure."""
    return size * sum(_advance(char) for char in text)


def _window(length: int, spans: list[TextSpan], limit: int) -> tuple[int, int]:
    if length <= limit:
        return 0, length
    overlaps = [span for span in spans if span.css == "overlap"]
    start = max(0, min(overlaps[0].start - limit // 4, length - limit)) if overlaps else 0
    return start, start + limit


def _shown(char: str) -> str:
    if char in _BLANKS:
        return " "
    if is_hidden(char):
        return (
            '<span class="hidden-char" title="a character that cannot be'
            f' seen">{_code(char)}</span>'
        )
    return html.escape(char)


def _code(char: str) -> str:
    return f"U+{ord(char):04X}"


def _advance(char: str) -> float:
    if unicodedata.combining(char):
        return 0.0
    if unicodedata.east_asian_width(char) in ("W", "F"):
        return 1.05
    if char in _NARROW:
        return 0.38
    return 0.74 if char.isupper() or char in "mwMW@%" else 0.59
