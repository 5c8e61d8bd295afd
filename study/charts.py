"""Line charts with intervals, as SVG files that need nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from open_diht.common.html import apart, attribute, text_width

WIDE, HIGH = 720.0, 380.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 176.0, 40.0, 52.0
_COLOURS = ("#2a7a76", "#b0513c", "#4a5a9a", "#b08a3c", "#7a4a8a", "#4a5258")
_LABEL = 15.0
_STEPS = (1, 2, 5)
_TICKS = 7
_INK, _GREY = "#1d2328", "#d8d4ca"


@dataclass(frozen=True)
class Point:
    """A value with its interval."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """One line."""

    name: str
    points: tuple[Point, ...]
    """In order of x."""


def line_chart(title: str, x_label: str, y_label: str, series: Sequence[Series], x_ticks: Sequence[float]) -> str:
    """The SVG of some lines over a logarithmic x axis, above 0; a line at y = 0, a bar for each interval, names at the
    ends. Raises ValueError without points."""
    points = [point for one in series for point in one.points]
    if not points:
        raise ValueError(f"chart {title!r} has no points")
    axes = _Axes(
        min(*x_ticks, *(point.x for point in points)),
        max(*x_ticks, *(point.x for point in points)),
        min(0.0, *(point.low for point in points)),
        max(0.0, *(point.high for point in points)),
    )
    drawn = [one for one in series if one.points]
    labels = apart([axes.y(one.points[-1].y) for one in drawn], _LABEL, HIGH - _BOTTOM)
    lines = [
        _line(one, axes, _COLOURS[number % len(_COLOURS)], label)
        for number, (one, label) in enumerate(zip(drawn, labels, strict=True))
    ]
    said = attribute(f"{title}: {y_label} against {x_label}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE:.0f} {HIGH:.0f}" role="img" aria-label="{said}" '
        f'font-family="system-ui, sans-serif" font-size="12">\n<rect width="{WIDE:.0f}" height="{HIGH:.0f}" '
        f'fill="#fdfcfa"/>\n{_frame(title, x_label, y_label, axes, x_ticks)}\n{chr(10).join(lines)}\n</svg>\n'
    )


@dataclass(frozen=True)
class _Axes:
    first: float
    last: float
    low: float
    high: float

    def x(self, value: float) -> float:
        spread = math.log(self.last / self.first)
        share = 0.5 if spread == 0 else math.log(value / self.first) / spread
        return _LEFT + 14 + share * (WIDE - _LEFT - _RIGHT - 28)

    def y(self, value: float) -> float:
        spread = (self.high - self.low) or 1.0
        return _TOP + 8 + (self.high - value) / spread * (HIGH - _TOP - _BOTTOM - 16)


def _frame(title: str, x_label: str, y_label: str, axes: _Axes, x_ticks: Sequence[float]) -> str:
    right, base, middle = WIDE - _RIGHT, HIGH - _BOTTOM, (_LEFT + WIDE - _RIGHT) / 2
    parts = [f'<text x="{_LEFT}" y="22" font-weight="600" fill="{_INK}">{attribute(title)}</text>']
    for value in _ticks(axes.low, axes.high):
        y, stroke = axes.y(value), _INK if value == 0 else _GREY
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="{stroke}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{_INK}">{value:g}</text>')
    for value in x_ticks:
        x = axes.x(value)
        parts.append(f'<path d="M{x:.1f} {base}v5" stroke="{_INK}"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 19}" text-anchor="middle" fill="{_INK}">{_short(value)}</text>')
    parts.append(f'<text x="{middle}" y="{HIGH - 10}" text-anchor="middle" fill="{_INK}">{attribute(x_label)}</text>')
    turned = f'transform="rotate(-90 16 {HIGH / 2})"'
    parts.append(f'<text x="16" y="{HIGH / 2}" text-anchor="middle" {turned} fill="{_INK}">{attribute(y_label)}</text>')
    return "\n".join(parts)


def _line(one: Series, axes: _Axes, colour: str, label: float) -> str:
    placed = [(axes.x(point.x), axes.y(point.y), point) for point in one.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in placed)
    parts = [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for x, y, point in placed:
        tip = attribute(f"{one.name}: {point.y:.1f} [{point.low:.1f}, {point.high:.1f}]")
        bar = f"M{x:.1f} {axes.y(point.high):.1f}V{axes.y(point.low):.1f}"
        parts.append(f'<path d="{bar}" stroke="{colour}" stroke-opacity=".55" stroke-width="1.5"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{colour}"><title>{tip}</title></circle>')
    x, y, _ = placed[-1]
    parts.append(f'<path d="M{x + 5:.1f} {y:.1f}L{WIDE - _RIGHT + 6:.1f} {label:.1f}" stroke="{colour}"/>')
    name = one.name
    while text_width(name, 12) > _RIGHT - 12:
        name = name[:-2].rstrip() + "\u2026"
    parts.append(f'<text x="{WIDE - _RIGHT + 9:.1f}" y="{label + 4:.1f}" fill="{colour}">{attribute(name)}</text>')
    return "\n".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, at most about seven."""
    spread = (high - low) or 1.0
    power = math.floor(math.log10(spread / _TICKS))
    candidates = [step * 10.0**exponent for exponent in range(power, power + 3) for step in _STEPS]
    step = next(step for step in candidates if spread / step <= _TICKS)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
