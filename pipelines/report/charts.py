"""The funnel as bars and the histograms as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from open_diht.common.html import attribute, show
from open_diht.pipelines.report.data import ColumnHistogram, Funnel

_MOST_COLUMNS, _FEWEST_COLUMNS = 16, 7
_WIDE, _HIGH, _BASE = 340.0, 150.0, 18.0


def percent(share: float | None) -> str:
    """A share as people read it: "46.6 %", "n/a" without rows."""
    if share is None:
        return "n/a"
    if 0 < share < 0.0005:
        return "&lt; 0.1 %"
    return f"{100 * share:.1f} %"


def reason_name(reason: str) -> str:
    """`text_spotting` as "text spotting"."""
    return reason.replace("_", " ")


def draw_funnel(funnel: Funnel) -> str:
    """A row for each step: what is left in solid, what this step took beside it; kept at the end."""
    rows = [_bar_row("", "rows in", None, funnel.rows_in, funnel)]
    stage = ""
    for step in funnel.steps:
        shown = step.stage if step.stage != stage else ""  # a stage is named once, at its first step
        stage = step.stage
        rows.append(_bar_row(shown, step.reason, step.gone, step.left, funnel))
    rows.append(_bar_row("", "kept", None, funnel.kept, funnel))
    return (
        '<table class="funnel"><thead><tr><th scope="col">stage</th><th scope="col">step</th><th scope="col">'
        '<span class="key left"></span>left <span class="key took"></span>rejected here</th>'
        '<th scope="col" class="number">rejected</th><th scope="col" class="number">share</th>'
        f'<th scope="col" class="number">left</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _bar_row(stage: str, reason: str, rejected: int | None, left: int, funnel: Funnel) -> str:
    total = max(funnel.rows_in, 1)
    left_wide = min(100.0, 100 * left / total)
    took_wide = min(100.0 - left_wide, 100 * (rejected or 0) / total)
    bar = f'<i class="left" style="width:{left_wide:.3f}%"></i>'
    if rejected:
        bar += f'<i class="took" style="width:{took_wide:.3f}%"></i>'
    name = show(reason_name(reason))
    link = f'<a href="#{anchor(reason)}">{name}</a>' if funnel.examples.get(reason) else name
    share = percent(funnel.share(rejected)) if rejected is not None else ""
    css = ' class="total"' if rejected is None else ""
    return (
        f'<tr{css}><td class="quiet">{show(stage) if stage else ""}</td><td>{link}</td>'
        f'<td class="bar"><div>{bar}</div></td><td class="number">{"" if rejected is None else f"{rejected:,}"}</td>'
        f'<td class="number quiet">{share}</td><td class="number">{left:,}</td></tr>'
    )


def draw_dead_letter(funnel: Funnel) -> str:
    """The dead letter by error, shown beside the funnel."""
    most = max((count for _, count in funnel.dead_by_error), default=1) or 1
    linked = f'<a href="#{anchor("dead_letter")}">Dead letter</a>'
    title = linked if funnel.examples.get("dead_letter") else "Dead letter"
    rows = "".join(
        f'<tr><td>{show(reason_name(error))}</td><td class="bar"><div><i class="dead" '
        f'style="width:{100 * count / most:.1f}%"></i></div></td><td class="number">{count:,}</td></tr>'
        for error, count in funnel.dead_by_error
    )
    units = f" and {funnel.dead_units:,} whole {_plural(funnel.dead_units, 'unit')}" if funnel.dead_units else ""
    return (
        f'<aside class="dead"><h3>{title}</h3>'
        f"<p><b>{funnel.dead_rows:,}</b> {_plural(funnel.dead_rows, 'row')}{units} that could not be judged "
        f'<span class="quiet">({percent(funnel.share(funnel.dead_rows))})</span></p>'
        f"{f'<table>{rows}</table>' if rows else ''}</aside>"
    )


def draw_histogram(title: str, text: str, counts: dict[int, int]) -> str:
    """Columns with their counts; ranges where there are many values."""
    return _draw_columns(title, text, bin_counts(counts) if counts else [])


def draw_column(histogram: ColumnHistogram) -> str:
    """The values of a column of the manifest, with a line at each threshold."""
    places = [place for place, _, _ in histogram.bins]
    marks = [places.index(place) for place in histogram.thresholds if place in places]
    text = "What the preset asks of the row." + (" Lines are its thresholds." if marks else "")
    return _draw_columns(show(histogram.column), text, [(label, count) for _, label, count in histogram.bins], marks)


def _draw_columns(title: str, text: str, columns: list[tuple[str, int]], marks: Sequence[int] = ()) -> str:
    """`title` and `text` are HTML; `marks` are columns before which a line is drawn."""
    if not columns:
        return f'<figure class="histogram"><h3>{title}</h3><p class="quiet">{text}</p><p>Not measured.</p></figure>'
    most = max(1, *(count for _, count in columns))
    step = _WIDE / max(len(columns), _FEWEST_COLUMNS)  # two or three columns need not be walls
    every = max(1, max(len(label) for label, _ in columns) * 7 // int(step) + 1)
    parts = []
    for index, (label, count) in enumerate(columns):
        high = max(1.5, _HIGH * count / most) if count else 0.0
        x, y = index * step, 16 + _HIGH - high
        middle = x + step / 2
        parts.append(
            f'<g><title>{attribute(label)}: {count:,}</title><rect class="h-bar" x="{x + step * 0.1:.1f}" y="{y:.1f}" '
            f'width="{step * 0.8:.1f}" height="{high:.1f}"/>'
        )
        if count and len(f"{count:,}") * 6 <= step + 4:
            parts.append(
                f'<text class="h-count" x="{middle:.1f}" y="{y - 4:.1f}" text-anchor="middle">{count:,}</text>'
            )
        if index % every == 0:
            parts.append(
                f'<text class="h-label" x="{middle:.1f}" y="{16 + _HIGH + _BASE - 3:.1f}" text-anchor="middle">'
                f"{attribute(label)}</text>"
            )
        parts.append("</g>")
    parts += [f'<path class="h-mark" d="M{mark * step:.1f} 4V{16 + _HIGH:.1f}"/>' for mark in marks]
    return (
        f'<figure class="histogram"><h3>{title}</h3><p class="quiet">{text}</p>'
        f'<svg role="img" aria-label="histogram: {title}" viewBox="0 0 {_WIDE:.0f} {16 + _HIGH + _BASE:.0f}">'
        f'<path class="h-axis" d="M0 {16 + _HIGH:.1f}H{_WIDE:.0f}"/>{"".join(parts)}</svg></figure>'
    )


def bin_counts(counts: dict[int, int]) -> list[tuple[str, int]]:
    """Every value from the least (at most 0) to the largest; from 17 values on, ranges of equal size after 0."""
    low, high = min(0, *counts), max(counts)
    if high - low < _MOST_COLUMNS:
        return [(str(value), counts.get(value, 0)) for value in range(low, high + 1)]
    size = -(-high // (_MOST_COLUMNS - 1))
    columns = [("0" if low == 0 else "\u2264 0", sum(count for value, count in counts.items() if value <= 0))]
    for first in range(1, high + 1, size):
        last = first + size - 1
        label = str(first) if size == 1 else f"{first}\u2013{last}"
        columns.append((label, sum(count for value, count in counts.items() if first <= value <= last)))
    return columns


def anchor(reason: str) -> str:
    """The id of a reason's section: letters, digits and hyphens only."""
    return "r-" + "".join(char if char.isascii() and char.isalnum() else "-" for char in reason)


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
