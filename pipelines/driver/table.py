"""The funnel as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from open_diht.pipelines.report.data import Funnel, read_funnel

_HEAD = ("stage", "reason", "rejected", "share", "left")
_GAP = "  "
_LEAST_BAR = 10

_Row = tuple[str, str, str, str, str]


def render_funnel(funnel: Mapping[str, Any], width: int = 100) -> str:
    """The funnel as plain ASCII lines of at most `width` characters (60 at least), without a final newline.

    `funnel` is the content of `funnel.json`. Shares are of the rows that came in. Where there is room, a bar shows what
    was left after each step.
    """
    run = read_funnel(funnel)
    steps: list[_Row] = [("", "rows in", "", "", f"{run.rows_in:,}")]
    stage = None
    for step in run.steps:
        shown = step.stage if step.stage != stage else ""
        stage = step.stage
        steps.append((shown, step.reason, f"{step.gone:,}", _share(run, step.gone), f"{step.left:,}"))
    ends: list[_Row] = [
        ("", "kept", "", _share(run, run.kept), f"{run.kept:,}"),
        ("", "dead letter", "", _share(run, run.dead_rows), f"{run.dead_rows:,}"),
    ]
    if run.not_decided:
        ends.append(("", "not decided", "", _share(run, run.not_decided), f"{run.not_decided:,}"))
    lefts = [run.rows_in, *(step.left for step in run.steps)]
    columns = _widths([_HEAD, *steps, *ends], max(width, 60))
    room = max(width, 60) - sum(columns) - len(_GAP) * len(columns)
    rule = "-" * (sum(columns) + len(_GAP) * (len(columns) - 1))
    lines = [_line(_HEAD, columns), rule]
    lines += [_line(row, columns) + _bar(left, run.rows_in, room) for row, left in zip(steps, lefts, strict=True)]
    lines.append(rule)
    lines += [_line(ends[0], columns) + _bar(run.kept, run.rows_in, room), *(_line(end, columns) for end in ends[1:])]
    lines += [f"{error}: {count:,}".rjust(len(rule))[: max(width, 60)] for error, count in _errors(run)]
    if run.dead_units:
        lines.append(f"whole units in the dead letter: {run.dead_units:,}".rjust(len(rule)))
    if run.uncounted_units:
        lines.append(f"of these not decided, and their rows not counted: {run.uncounted_units:,}".rjust(len(rule)))
    if run.unaccounted:
        lines.append(f"The counts do not add up: {run.unaccounted:+,} rows are unaccounted for.")
    return "\n".join(lines)


def _errors(run: Funnel) -> list[tuple[str, int]]:
    return [(_printable(error), count) for error, count in run.dead_by_error]


def _widths(rows: list[_Row], width: int) -> list[int]:
    """Column widths; the two of words give way where the whole would be too wide."""
    columns = [max(len(_printable(row[place])) for row in rows) for place in range(len(_HEAD))]
    over = sum(columns) + len(_GAP) * (len(columns) - 1) - width
    for place in (1, 0):
        cut = max(0, min(over, columns[place] - 8))
        columns[place] -= cut
        over -= cut
    return columns


def _line(row: _Row, columns: list[int]) -> str:
    cells = []
    for index, (cell, wide) in enumerate(zip(row, columns, strict=True)):
        text = _printable(cell)
        text = text if len(text) <= wide else text[: wide - 1] + "~"
        cells.append(text.ljust(wide) if index < 2 else text.rjust(wide))
    return _GAP.join(cells).rstrip()


def _bar(left: int, rows_in: int, room: int) -> str:
    if room < _LEAST_BAR or not rows_in or left <= 0:
        return ""
    return _GAP + "#" * max(1, round(min(1.0, left / rows_in) * room))


def _share(run: Funnel, rows: int) -> str:
    share = run.share(rows)
    return "n/a" if share is None else f"{100 * share:.1f} %"


def _printable(text: str) -> str:
    """Names come from files: nothing in them may move the cursor or widen a cell."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
