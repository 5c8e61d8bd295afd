"""Interval bars and few-shot curves, as inline HTML and SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass

from open_diht.common.html import apart, attribute
from open_diht.eval.report.data import FewShotTable
from open_diht.eval.report.text import percent

WIDE, HIGH = 720.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 150.0, 14.0, 40.0
_LABEL = 15.0
MARKS = 7
"""Colours and marks of style.py; a method beyond takes them again from the first."""


def interval_bar(value: float, low: float | None, high: float | None, chance: float | None) -> str:
    """A track from 0 to 100 % with the interval, the value, and a tick where chance is."""
    parts = []
    if low is not None and high is not None:
        parts.append(f'<i class="ci" style="left:{_at(low)}%;width:{100 * (high - low):.2f}%"></i>')
    if chance is not None:
        parts.append(f'<i class="chance" style="left:{_at(chance)}%" title="chance {percent(chance)} %"></i>')
    parts.append(f'<i class="value" style="left:{_at(value)}%"></i>')
    ends = "" if low is None else f", 95 % interval {percent(low)} to {percent(high)}"
    return f'<div class="track" role="img" aria-label="{percent(value)} %{ends}">{"".join(parts)}</div>'


def _at(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}"


@dataclass(frozen=True, slots=True)
class _Axes:
    shots: tuple[int, ...]
    low: float
    high: float

    def x(self, k: int) -> float:
        first, last = math.log2(self.shots[0]), math.log2(self.shots[-1])
        share = 0.5 if first == last else (math.log2(k) - first) / (last - first)
        return _LEFT + share * (WIDE - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (self.high - value) / (self.high - self.low) * (HIGH - _TOP - _BOTTOM)


def draw_curves(table: FewShotTable) -> str:
    """Mean over seeds against shots, one line per method with a bar of one standard deviation; names at the ends."""
    axes = _Axes(table.shots, *_limits(table))
    lines = [_draw_method(table, method, number, axes) for number, method in enumerate(table.methods)]
    ends = []
    for method in table.methods:
        last = [row for k in table.shots if (row := table.of(method, k)) is not None][-1]
        ends.append(axes.y(last["value"]))
    labels = [
        _draw_name(method, number % MARKS, end, y)
        for number, (method, y, end) in enumerate(
            zip(table.methods, apart(ends, _LABEL, HIGH - _BOTTOM + 4), ends, strict=True)
        )
    ]
    return (
        f'<svg class="curves" role="img" aria-label="few-shot curves of {attribute(table.task)}" '
        f'viewBox="0 0 {WIDE:.0f} {HIGH:.0f}">{_grid(axes)}{"".join(lines + labels)}</svg>'
    )


def _draw_method(table: FewShotTable, method: str, number: int, axes: _Axes) -> str:
    css = f"m{number % MARKS}"
    points, extras = [], []
    for k in table.shots:
        row = table.of(method, k)
        if row is None:
            continue
        x, y = axes.x(k), axes.y(row["value"])
        points.append(f"{x:.1f} {y:.1f}")
        std = row["protocol"]["few_shot"].get("std_over_seeds")
        if std:
            top, base = axes.y(row["value"] + std), axes.y(row["value"] - std)
            extras.append(f'<path class="c-std {css}" d="M{x:.1f} {top:.1f}V{base:.1f}"/>')
        tip = f"{attribute(method)}, {k} shots: {percent(row['value'])} %"
        extras.append(f'<circle class="c-dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="3.4"><title>{tip}</title></circle>')
    return f'<path class="c-line {css}" d="M{"L".join(points)}"/>{"".join(extras)}'


def _draw_name(method: str, colour: int, end: float, y: float) -> str:
    x = WIDE - _RIGHT
    return (
        f'<path class="c-lead m{colour}" d="M{x + 4:.1f} {end:.1f}L{x + 10:.1f} {y:.1f}"/>'
        f'<text class="c-name m{colour}" x="{x + 12:.1f}" y="{y + 4:.1f}">{attribute(method, 24)}</text>'
    )


def _limits(table: FewShotTable) -> tuple[float, float]:
    values = []
    for row in table.points.values():
        std = row["protocol"]["few_shot"].get("std_over_seeds") or 0.0
        values += [row["value"] - std, row["value"] + std]
    low, high = max(0.0, min(values) - 0.01), min(1.0, max(values) + 0.01)
    return (low, high) if high - low > 0.02 else (max(0.0, low - 0.02), min(1.0, high + 0.02))


def _grid(axes: _Axes) -> str:
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (axes.high - axes.low) / step <= 7 or step == 0.2)
    right = WIDE - _RIGHT
    parts = []
    for number in range(math.ceil(axes.low / step), math.floor(axes.high / step + 1e-9) + 1):
        y = axes.y(number * step)
        parts.append(f'<path class="c-grid" d="M{_LEFT:.1f} {y:.1f}H{right:.1f}"/>')
        parts.append(f'<text class="c-tick" x="{_LEFT - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">')
        parts.append(f"{100 * number * step:.0f}</text>")
    base = HIGH - _BOTTOM
    for k in axes.shots:
        x = axes.x(k)
        parts.append(f'<path class="c-grid" d="M{x:.1f} {base:.1f}v5"/>')
        parts.append(f'<text class="c-tick" x="{x:.1f}" y="{base + 18:.1f}" text-anchor="middle">{k}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<path class="c-axis" d="M{_LEFT:.1f} {base:.1f}H{right:.1f}"/>')
    parts.append(
        f'<text class="c-tick" x="{middle:.1f}" y="{HIGH - 5:.1f}" text-anchor="middle">shots per class</text>'
    )
    return "".join(parts)
