"""Charts of the reports: bars, histograms and lines, as HTML that loads nothing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from open_diht.common.html.text import attribute, plain, show, text_width

WIDE = 720.0
HIGH = 380.0
"""Size of a line chart, in pixels."""
# Margins in pixels, for the labels of the axes.
_LEFT = 62.0
_RIGHT = 176.0
_TOP = 40.0
_BOTTOM = 52.0
_MOST_RIGHT = 300.0
"""Largest right margin, which grows with the longest name."""
COLORS = ("#2a8583", "#c2602a", "#8e62b8", "#4a7bc0", "#9a7a1a", "#c0558a", "#74808a")
"""Colors with a contrast of at least 3.8 on the light and the dark page. Further lines reuse
them."""
_LABEL = 15.0  # distance of two names at the ends of lines
_TICKS = 7
_MANY = 40  # points from which dots of the full size would cover their line
_HISTOGRAM_WIDE = 340.0
_HISTOGRAM_HIGH = 150.0
_BASE = 18.0
_MOST_COLUMNS = 16
_FEWEST_COLUMNS = 7


@dataclass(frozen=True)
class Point:
    """A value and the ends of its interval, which may equal the value."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]
    """In order of x."""


def bar(parts: Iterable[tuple[str, float]]) -> str:
    """Return a bar as wide as its cell, from the class (`left`, `took` or `dead`) and fraction of
    each part."""
    rects = []
    begin = 0.0
    for css, fraction in parts:
        if fraction > 0:
            width = max(0.3, min(100 * fraction, 100 - begin))  # keep a single row visible
            begin = min(begin, 100 - width)  # keep widened parts inside the bar
            rects.append(f'<rect class="{css}" x="{begin:.3f}" width="{width:.3f}" height="10"/>')
            begin += width
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none"'
        f' aria-hidden="true">{"".join(rects)}</svg>'
    )


def interval_bar(value: float, low: float | None, high: float | None, chance: float | None) -> str:
    """Return a track from 0 to 100 % with the value, its interval, and a tick at chance. The
    arguments are fractions. Pass None to omit the interval or the tick."""
    said = f"{100 * value:.1f} %"
    if low is not None and high is not None:
        said += f", 95 % interval {100 * low:.1f} to {100 * high:.1f}"
    tick = None if chance is None else (chance, f"chance {100 * chance:.1f} %")
    return _track(value, low, high, tick, said)


def difference_bar(value: float, low: float | None, high: float | None, most: float) -> str:
    """Return a track from `-most` to `most` with a difference, its interval, and a tick at 0. Pass
    None to omit the interval."""
    said = f"{100 * value:+.2f} points"
    if low is not None and high is not None:
        said += f", 95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
    left, right = (None if end is None else 0.5 + end / (2 * most) for end in (low, high))
    return _track(0.5 + value / (2 * most), left, right, (0.5, "no difference"), said)


def _track(
    value: float, low: float | None, high: float | None, tick: tuple[float, str] | None, said: str
) -> str:
    parts = []
    if low is not None and high is not None:
        parts.append(
            '<i class="ci"'
            f' style="left:{_at(low)}%;width:{float(_at(high)) - float(_at(low)):.2f}%"></i>'
        )
    if tick is not None:
        parts.append(f'<i class="chance" style="left:{_at(tick[0])}%" title="{tick[1]}"></i>')
    parts.append(f'<i class="value" style="left:{_at(value)}%"></i>')
    return f'<div class="track" role="img" aria-label="{said}">{"".join(parts)}</div>'


def _at(fraction: float) -> str:
    return f"{100 * min(1.0, max(0.0, fraction)):.2f}"


def bin_counts(counts: dict[int, int]) -> list[tuple[str, int]]:
    """Return one column per value from the minimum (at most 0) to the maximum. From 17 values on,
    return a column for 0 and below, and columns for ranges of equal size."""
    low = min(0, *counts)
    high = max(counts)
    if high - low < _MOST_COLUMNS:
        return [(str(value), counts.get(value, 0)) for value in range(low, high + 1)]
    size = -(-high // (_MOST_COLUMNS - 1))  # rounded up
    columns = [
        (
            "0" if low == 0 else "\u2264 0",
            sum(count for value, count in counts.items() if value <= 0),
        )
    ]
    for first in range(1, high + 1, size):
        last = first + size - 1
        label = str(first) if size == 1 else f"{first}\u2013{last}"
        columns.append(
            (label, sum(count for value, count in counts.items() if first <= value <= last))
        )
    return columns


def histogram(
    title: str, text: str, columns: Sequence[tuple[str, int]], marks: Sequence[int] = ()
) -> str:
    """Return a figure of columns, from the label and count of each. Counts are shown if there is
    room. Without columns it reads "Not measured"."""
    head = f'<figure class="histogram"><h3>{show(title)}</h3><p class="quiet">{attribute(text)}</p>'
    if not columns:
        return f"{head}<p>Not measured.</p></figure>"
    most = max(1, *(count for _, count in columns))
    # Keep a few columns from becoming too wide.
    step = _HISTOGRAM_WIDE / max(len(columns), _FEWEST_COLUMNS)
    every = max(1, max(len(label) for label, _ in columns) * 7 // int(step) + 1)
    base = 16 + _HISTOGRAM_HIGH
    parts = [f'<path class="h-axis" d="M0 {base:.1f}H{_HISTOGRAM_WIDE:.0f}"/>']
    for index, (label, count) in enumerate(columns):
        high = max(1.5, _HISTOGRAM_HIGH * count / most) if count else 0.0
        x = index * step
        y = base - high
        middle = x + step / 2
        parts.append(
            f'<g><title>{attribute(label)}: {count:,}</title><rect class="h-bar"'
            f' x="{x + step * 0.1:.1f}" y="{y:.1f}" width="{step * 0.8:.1f}" height="{high:.1f}"/>'
        )
        if count and len(f"{count:,}") * 6 <= step + 4:
            parts.append(
                f'<text x="{middle:.1f}" y="{y - 4:.1f}" text-anchor="middle">{count:,}</text>'
            )
        if index % every == 0:
            below = f'x="{middle:.1f}" y="{base + _BASE - 3:.1f}" text-anchor="middle"'
            parts.append(f"<text {below}>{attribute(label)}</text>")
        parts.append("</g>")
    parts += [f'<path class="h-mark" d="M{mark * step:.1f} 4V{base:.1f}"/>' for mark in marks]
    size = f'viewBox="0 0 {_HISTOGRAM_WIDE:.0f} {base + _BASE:.0f}"'
    return (
        f'{head}<svg role="img" aria-label="histogram: {attribute(title)}"'
        f" {size}>{''.join(parts)}</svg></figure>"
    )


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    x_ticks: Sequence[float] | None,
    zero: bool = True,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Return the SVG of lines over a logarithmic x axis, with a bar for each interval and names
    at the ends. Without `x_ticks` the axis is linear, from 0. Lines without points are omitted.
    Raise ValueError if all are. `zero` includes y = 0; `marks` are the places and texts of
    vertical lines."""
    drawn = [one for one in series if one.points]
    points = [point for one in drawn for point in one.points]
    if not points:
        raise ValueError(f"chart {title!r} has no points")
    linear = x_ticks is None
    first, last = (
        end(*(x_ticks or [0.0]), *(point.x for point in points), *(x for x, _ in marks))
        for end in (min, max)
    )
    if x_ticks is None:
        x_ticks = ticks(first, max(last, first + 1))
    low = min(point.low for point in points)
    high = max(point.high for point in points)
    low, high = (min(0.0, low), max(0.0, high)) if zero else (low, high)
    if low == high:  # avoid an empty y range
        low, high = low - 1, high + 1
    names = [plain(one.name) for one in drawn]
    room = min(_MOST_RIGHT, max(_RIGHT, *(text_width(name, 12) + 13 for name in names))) - 12
    right = WIDE - room - 12
    base = HIGH - _BOTTOM
    middle = (_LEFT + right) / 2

    def across(x: float) -> float:
        if linear:
            fraction = (x - first) / max(last - first, 1)
        else:
            fraction = math.log(x / first) / math.log(last / first) if last > first else 0.5
        return _LEFT + 14 + fraction * (right - _LEFT - 28)

    def down(y: float) -> float:
        return _TOP + 8 + (high - y) / (high - low) * (base - _TOP - 16)

    x_label = x_label if linear else f"{x_label} (logarithmic)"
    form = ".4g" if linear else ",.1f"  # a learning rate has no first decimal
    parts = [f'<text x="{_LEFT}" y="22" font-weight="600">{attribute(title)}</text>']
    for value in ticks(low, high):
        y = down(value)
        opacity = 1 if value == 0 else 0.2
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="currentColor" stroke-opacity="{opacity}"/>'
        )
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>'
        )
    for value in x_ticks:
        x = across(value)
        parts.append(f'<path d="M{x:.1f} {base}v5" stroke="currentColor"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{base + 19}" text-anchor="middle">{_short(value)}</text>'
        )
    parts += [
        f'<path d="M{across(x):.1f} {_TOP}V{base}" stroke="currentColor" stroke-dasharray="4 3">'
        f"<title>{attribute(text)}</title></path>"
        for x, text in marks
    ]
    parts.append(
        f'<text x="{middle}" y="{HIGH - 10}" text-anchor="middle">{attribute(x_label)}</text>'
    )
    turned = f'x="16" y="{HIGH / 2}" text-anchor="middle" transform="rotate(-90 16 {HIGH / 2})"'
    parts.append(f"<text {turned}>{attribute(y_label)}</text>")
    labels = apart([down(one.points[-1].y) for one in drawn], _LABEL, base)
    for number, (one, name, label) in enumerate(zip(drawn, names, labels, strict=True)):
        placed = [(across(point.x), down(point.y), point) for point in one.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in placed)
        color = COLORS[number % len(COLORS)]
        radius = 3 if len(placed) < _MANY else 1.5
        parts.append(
            f'<g stroke="{color}" fill="{color}"><path d="M{path}" fill="none" stroke-width="2"/>'
        )
        for x, y, point in placed:
            tip = attribute(
                f"{one.name}, {_short(point.x)}: {point.y:{form}} [{point.low:{form}},"
                f" {point.high:{form}}]"
            )
            interval = f"M{x:.1f} {down(point.high):.1f}V{down(point.low):.1f}"
            parts.append(f'<path d="{interval}" stroke-opacity=".55" stroke-width="1.5"/>')
            circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}">'
            parts.append(f"{circle}<title>{tip}</title></circle>")
        x, y, _ = placed[-1]
        parts.append(f'<path d="M{x + 5:.1f} {y:.1f}L{right + 6:.1f} {label:.1f}"/></g>')
        while text_width(name, 12) > room:  # shorten names that do not fit
            name = name[:-2].rstrip() + "\u2026"
        parts.append(f'<text x="{right + 9:.1f}" y="{label + 4:.1f}">{attribute(name)}</text>')
    return (
        f'<svg class="lines" viewBox="0 0 {WIDE:.0f} {HIGH:.0f}" role="img" fill="currentColor"'
        ' font-size="12" '
        'font-family="system-ui, sans-serif"'
        f' aria-label="{attribute(f"{title}: {y_label} against {x_label}")}">\n'
        f"{chr(10).join(parts)}\n</svg>\n"
    )


def svg_file(chart: str) -> str:
    """Return a chart of lines as the content of an SVG file, on a background that follows the
    reader's color scheme. The class `hollow` is filled like the background."""
    head, _, rest = chart.partition(">")
    head = head.replace('class="lines"', 'xmlns="http://www.w3.org/2000/svg" color="#1d2328"')
    colors = (
        "<style>rect, .hollow { fill: #fdfcfa } @media (prefers-color-scheme: dark) { svg { color:"
        " #e4e2dc } rect, .hollow { fill: #1b2126 } }</style>"
    )
    return f'{head}>\n{colors}\n<rect width="100%" height="100%"/>{rest}'


def apart(heights: Sequence[float], gap: float, lowest: float) -> list[float]:
    """Return the heights of labels, moved down to keep them a gap apart, and up where they would
    pass `lowest`."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    placed = list(heights)
    for before, here in pairwise(order):
        placed[here] = max(placed[here], placed[before] + gap)
    limit = lowest
    for place in reversed(order):
        placed[place] = min(placed[place], limit)
        limit = placed[place] - gap
    return placed


def _short(value: float) -> str:
    """Return a number of an axis with its thousands, millions or billions as a letter, such as
    `17.408k` or `438M`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def ticks(low: float, high: float) -> list[float]:
    """Return at most eight round numbers from `low` to `high`."""
    power = math.floor(math.log10((high - low) / _TICKS))
    candidates = [
        step * 10.0**exponent for exponent in range(power, power + 3) for step in (1, 2, 5)
    ]
    step = next(step for step in candidates if (high - low) / step <= _TICKS)
    return [
        number * step for number in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)
    ]
