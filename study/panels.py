"""Draw README's plot: what a score, CAT and a teacher gain, a row of panels for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from open_diht.common.html.charts import COLORS, ticks
from study.tables import Line

SHOWN = {
    "weights-default": ("A score as weights, against all pairs", ("default", "strength-0")),
    "cat": ("What CAT keeps, against all pairs", ("kept", "all")),
    "teachers": (
        "A teacher's embeddings, against no teacher",
        ("embeddings-infonce", "none-infonce"),
    ),
}
"""The rows of panels: the table, its title, and the arms that are compared."""
CONTROL = ("teachers-more", ("embeddings-infonce", "more-infonce"))
"""The table and the arms that are drawn dashed in the row of teachers."""
TESTS = {"flickr8k-test/t2i": "photographs", "web-held/t2i": "web pairs"}
"""The columns of panels."""
POOLS = {"injected": "noisy web pairs", "natural": "clean web pairs", "lettered": "photographs"}
_COLOR = dict(zip(POOLS, (COLORS[1], COLORS[0], COLORS[2]), strict=True))
# Sizes in pixels. A phone shows about 360, so that letters of 13 stay readable there.
_WIDE = 420
_LEFT = 36
_GAP = 12
_HEAD = 104  # what stands above the first row
_TITLE = 26
_PANEL = 140
_FOOT = 44
_ACROSS = (_WIDE - _LEFT - _GAP - 8) / 2
_INSIDE = 10  # between the frame of a panel and its outermost points
_APART = 5  # between points that would lie on each other
_STEPS = (0.5, 1, 2, 5, 10, 20, 50)
R10 = 1
"""The place of R@10 among the measures of these tables."""


def readme_figure(compared: Mapping[str, Sequence[Line]]) -> str:
    """Plot the change of R@10 against the samples seen for each pair of the pool, on one scale for
    all panels. `complete` says whether it can be drawn.

    A dot is filled if its line is significant, by the measure that decides it. Pools that CAT has
    cut already are left out.
    """
    rows = {title: _of_pools(compared[table], arms) for table, (title, arms) in SHOWN.items()}
    table, arms = CONTROL
    dashed = _of_pools(compared[table], arms)
    drawn = [line for lines in [*rows.values(), dashed] for line in lines]
    seen = [_seen(line) for line in drawn]
    low = min(0.0, *(line.found[R10].low for line in drawn))
    high = max(0.0, *(line.found[R10].high for line in drawn))
    scale = _Scale(min(seen), max(seen), low, high)
    high_of_all = _HEAD + len(rows) * (_TITLE + _PANEL) + _FOOT
    parts = list(_legend())
    for number, (title, lines) in enumerate(rows.items()):
        top = _HEAD + number * (_TITLE + _PANEL) + _TITLE
        parts.append(f'<text x="{_LEFT}" y="{top - 8}" font-weight="600">{title}</text>')
        last = number == len(rows) - 1
        for column, test in enumerate(TESTS):
            left = _LEFT + column * (_ACROSS + _GAP)
            parts += scale.frame(left, top, labels=not column, steps=last)
            here = [line for line in lines if line.items == test]
            parts += _drawn(here, scale, left, top)
            if last:
                control = [line for line in dashed if line.items == test]
                parts += _drawn(control, scale, left, top, ' stroke-dasharray="4 3"')
    parts.append(
        f'<text x="{_LEFT + _ACROSS + _GAP / 2:.0f}" y="{high_of_all - 8}" text-anchor="middle">'
        "samples seen / pairs of the pool (logarithmic)</text>"
    )
    return (
        f'<svg class="lines" width="{_WIDE}" height="{high_of_all}"'
        f' viewBox="0 0 {_WIDE} {high_of_all}" role="img" fill="currentColor" font-size="13"'
        ' font-family="system-ui, sans-serif" aria-label="Change of R@10 in points against samples'
        f' seen for each pair">\n{chr(10).join(parts)}\n</svg>\n'
    )


def complete(compared: Mapping[str, Sequence[Line]]) -> bool:
    """Return whether each row of panels has a line."""
    return all(_of_pools(compared[table], arms) for table, (_, arms) in SHOWN.items())


class _Scale:
    """The axes that all panels share: samples for each pair, and points of R@10."""

    def __init__(self, first: float, last: float, low: float, high: float) -> None:
        self.first, self.last, self.low, self.high = first, last, low, high

    def across(self, seen: float) -> float:
        """Return the distance from a panel's left side, in pixels."""
        fraction = math.log(seen / self.first) / max(math.log(self.last / self.first), 1e-9)
        return _INSIDE + fraction * (_ACROSS - 2 * _INSIDE - _APART)

    def down(self, points: float) -> float:
        """Return the distance from a panel's top, in pixels."""
        return 4 + (self.high - points) / (self.high - self.low) * (_PANEL - 8)

    def frame(self, left: float, top: float, labels: bool, steps: bool) -> Iterator[str]:
        """Yield the lines of a panel's axes, with the points' `labels` at its left and the samples'
        `steps` below it."""
        for value in ticks(self.low, self.high):
            y = top + self.down(value)
            opacity = 1 if value == 0 else 0.2
            yield (
                f'<path d="M{left:.1f} {y:.1f}h{_ACROSS:.1f}" stroke="currentColor"'
                f' stroke-opacity="{opacity}"/>'
            )
            if labels:
                shown = f"{value:+g}".replace("-", "\u2212") if value else "0"
                yield f'<text x="{left - 5}" y="{y + 4.5:.1f}" text-anchor="end">{shown}</text>'
        for value in _STEPS:
            if steps and self.first * 0.9 <= value <= self.last * 1.1:
                x = left + self.across(value)
                yield f'<path d="M{x:.1f} {top + _PANEL}v4" stroke="currentColor"/>'
                shown = f"{value:g}".removeprefix("0")
                y = top + _PANEL + 17
                yield f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{shown}</text>'


def _legend() -> Iterator[str]:
    title = "Change of R@10 in points: above 0 is better"
    yield f'<text x="{_LEFT}" y="20" font-weight="600">{title}</text>'
    x = float(_LEFT)
    for kind, name in POOLS.items():
        yield f'<circle cx="{x + 5:.0f}" cy="38" r="4" fill="{_COLOR[kind]}"/>'
        yield f'<text x="{x + 13:.0f}" y="42">{name}</text>'
        x += 128
    yield (
        f'<circle cx="{_LEFT + 5}" cy="56" r="4" fill="none" stroke="currentColor"'
        ' stroke-width="1.5"/>'
    )
    yield f'<text x="{_LEFT + 13}" y="60">hollow: not significant; bars: 95 % intervals</text>'
    yield (
        f'<path d="M{_LEFT} 74h12" stroke="currentColor" stroke-width="2" stroke-dasharray="4 3"/>'
    )
    yield f'<text x="{_LEFT + 17}" y="78">against training on the teacher\'s own pairs, too</text>'
    for column, name in enumerate(TESTS.values()):
        middle = _LEFT + column * (_ACROSS + _GAP) + _ACROSS / 2
        yield (
            f'<text x="{middle:.1f}" y="{_HEAD - 4}" text-anchor="middle" font-style="italic">'
            f"tested on {name}</text>"
        )


def _of_pools(lines: Sequence[Line], arms: tuple[str, str]) -> list[Line]:
    """Return the lines of two arms whose pools have a size and are whole."""
    return [
        line
        for line in lines
        if (line.b, line.a) == arms
        and line.pairs
        and line.items in TESTS
        and line.pool.partition("-")[0] in POOLS
        and not line.pool.endswith("-kept")
    ]


def _seen(line: Line) -> float:
    """Return the samples that a training saw for each pair of its pool."""
    return line.budget / (line.pairs or line.budget)


def _drawn(
    lines: Sequence[Line], scale: _Scale, left: float, top: float, dash: str = ""
) -> Iterator[str]:
    """Yield a line for each pool, with its dots and their intervals."""
    pools: dict[str, list[Line]] = {}
    for line in lines:
        pools.setdefault(line.pool, []).append(line)
    of_kind: dict[str, int] = {}
    for pool, found in pools.items():
        kind = pool.partition("-")[0]
        aside = of_kind.get(kind, 0) * _APART
        of_kind[kind] = of_kind.get(kind, 0) + 1
        placed = [
            (left + scale.across(_seen(line)) + aside, line)
            for line in sorted(found, key=lambda line: line.budget)
        ]
        path = "L".join(
            f"{x:.1f} {top + scale.down(line.found[R10].difference):.1f}" for x, line in placed
        )
        color = _COLOR[kind]
        yield f'<g stroke="{color}" fill="none"><path d="M{path}" stroke-width="2"{dash}/>'
        for x, line in placed:
            one = line.found[R10]
            ends = [top + scale.down(end) for end in (one.high, one.low)]
            interval = f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}"
            yield f'<path d="{interval}" stroke-width="1.5" stroke-opacity=".7"/>'
            # A hollow dot is filled like the background, so that it covers its line.
            filled = f' fill="{color}"' if line.verdict != "open" else ' class="hollow"'
            y = top + scale.down(one.difference)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" stroke-width="1.5"{filled}/>'
        yield "</g>"
