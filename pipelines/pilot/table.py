"""Format a forecast as a table."""

from __future__ import annotations

from collections.abc import Callable

from open_diht.pipelines.pilot.estimate import Estimate
from open_diht.pipelines.pilot.forecast import Forecast, ForecastLine

_UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def render(forecast: Forecast) -> str:
    """Return the forecast as plain text: name, value, interval and, except for proportions, basis."""
    lines = ["proportion of all rows         estimate   95 % interval", "-" * 76]
    for outcome, rate in forecast.rates.items():
        lines.append(_row(outcome, _percent(rate.value), _interval(rate, _percent), ""))
    sections = (
        ("rows", forecast.rows, _count),
        ("images", forecast.images, _count),
        ("core-hours", forecast.core_hours, _number),
        ("hours with workers", {f"{n:,}": line for n, line in forecast.hours.items()}, _number),
        ("bytes stored", forecast.stored, _bytes),
        ("concepts", forecast.concepts, _number),
        ("cost", forecast.cost, _number),
    )
    lines += ["", "the whole data set             estimate   95 % interval         rests on", "-" * 76]
    for title, section, shown in sections:
        for name, line in section.items():
            show = {"bytes": _bytes, "images": _count}.get(name, shown) if title in ("images", "concepts") else shown
            lines.append(_line(f"{title}: {name}", line, show))
    return "\n".join(lines)


def _line(name: str, line: ForecastLine, shown: Callable[[float], str]) -> str:
    basis = line.basis + (f" ({line.note})" if line.note else "")
    if line.estimate is None:
        return _row(name, "?", "", basis)
    return _row(name, shown(line.estimate.value), _interval(line.estimate, shown), basis)


def _row(name: str, value: str, interval: str, basis: str) -> str:
    return f"{name:<29} {value:>9}   {interval:<21} {basis}".rstrip()


def _interval(estimate: Estimate, shown: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return "(too few units)"
    return f"{shown(estimate.low)} to {shown(estimate.high)}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if value >= 0.0095 or not value else f"{100 * value:.2g} %"


def _count(value: float) -> str:
    for size, name in _UNITS:
        if value >= 10_000 and value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    for size, name in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {name}B"
    return f"{value:.0f} B"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
