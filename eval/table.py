"""Tabulate several models: `python -m open_diht.eval.table out/bench/one out/bench/other ...
[--format latex]`.

Reads results.json and the items of each folder, and prints the main number of every task that any
of them measured, then the numbers over several tasks, as Markdown, CSV, LaTeX, or HTML (`--format
html`). Nothing is bold: `make compare` tests whether two models differ. Except in CSV, a number is
marked if its metric, data, rules or version differ from those of the first model that has the task.

Exit status: 0 printed; 1 a file is broken; 2 wrong use.
"""

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from open_diht.common.command_line import OK, command, say
from open_diht.common.html.charts import interval_bar
from open_diht.common.html.page import render_page
from open_diht.eval.comparison import main_rows, rows_of
from open_diht.eval.errors import EvalError
from open_diht.eval.report.across import across
from open_diht.eval.report.data import group_tasks
from open_diht.eval.report.text import cell
from open_diht.eval.results import SAME_DATA, rules_of, version_of
from open_diht.eval.table_options import parse

MARK = "*"


@dataclass(frozen=True, slots=True)
class Cell:
    """A model's number and the ends of its interval, as fractions."""

    value: float
    low: float | None
    high: float | None
    other: bool
    """True if metric, data, rules or version of a task differ from those of the first model that
    has the number."""


@dataclass(frozen=True, slots=True)
class Line:
    task: str
    metric: str
    cells: tuple[Cell | None, ...]
    """A cell for each model. None stands for no number."""


def lines_of(folders: Sequence[Path]) -> list[Line]:
    """Return the measured tasks of all folders, in order of first appearance, then numbers over
    several tasks. Raises `WrongUse` if a folder has no results, `DataBroken` if its results are
    corrupt."""
    of_folders = [rows_of(folder) for folder in folders]
    of_models = [main_rows(rows) for rows in of_folders]
    found = []
    for task in dict.fromkeys(name for rows in of_models for name in rows):
        rows = [one.get(task) for one in of_models]
        measured = [row for row in rows if row is not None and row["value"] is not None]
        if measured:
            cells = tuple(_cell(row, measured[0]) for row in rows)
            found.append(Line(task, measured[0]["metric"], cells))
    # Numbers over several tasks come last, matched by name, metric and the tasks that were used.
    several = [
        {
            (one.name, one.metric, tuple(sorted(one.parts))): one
            for one in across(group_tasks(rows), folder)
        }
        for rows, folder in zip(of_folders, folders, strict=True)
    ]
    keys = dict.fromkeys(key for of_model in several for key in of_model)
    for name, metric, parts in keys:
        numbers = [of_model.get((name, metric, parts)) for of_model in several]
        first = next(index for index, one in enumerate(numbers) if one is not None)
        used = list(chain(*parts))
        differ = [
            any(_measure(of_models[first][task]) != _measure(rows[task]) for task in used)
            for rows in of_models
        ]
        cells = tuple(
            None if one is None else Cell(one.value, one.low, one.high, other)
            for one, other in zip(numbers, differ, strict=True)
        )
        alike = sum(key[:2] == (name, metric) for key in keys) > 1
        found.append(
            Line(name, f"{metric}: {', '.join(map('/'.join, parts))}" if alike else metric, cells)
        )
    return found


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest trailing part of each folder's path that no other folder has."""
    paths = [folder.resolve().parts for folder in folders]
    return [
        next(
            "/".join(end)
            for end in (path[start:] for start in reversed(range(len(path))))
            if all(other[-len(end) :] != end for other in paths if other != path)
        )
        for path in paths
    ]


def _cell(row: Mapping[str, Any] | None, first: Mapping[str, Any]) -> Cell | None:
    if row is None or row["value"] is None:
        return None
    return Cell(row["value"], row["low"], row["high"], _measure(row) != _measure(first))


def _measure(row: Mapping[str, Any]) -> list[Any]:
    """Return the fields in which two numbers of a task must agree to be compared."""
    data = row["protocol"].get("data", {})
    return [
        row["metric"],
        rules_of(row["protocol"]),
        version_of(row["protocol"]),
        *(data.get(name) for name in SAME_DATA),
    ]


def to_markdown(names: Sequence[str], lines: Sequence[Line]) -> str:
    """Return a Markdown table of numbers in percent with half the width of their intervals."""
    rows = [["task", "metric", *names], ["---", "---", *["--:"] * len(names)]]
    rows += [[line.task, line.metric, *_texts(line, " \u00b1 ")] for line in lines]
    return "\n".join(f"| {' | '.join(map(cell, row))} |" for row in rows)


def to_csv(names: Sequence[str], lines: Sequence[Line]) -> str:
    """Return CSV with columns for value, low and high of every model, as fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "task",
            "metric",
            *(f"{name} {what}".strip() for name in names for what in ("", "low", "high")),
        ]
    )
    for line in lines:
        numbers = [
            (None,) * 3 if cell is None else (cell.value, cell.low, cell.high)
            for cell in line.cells
        ]
        writer.writerow(
            [
                line.task,
                line.metric,
                *("" if one is None else f"{one:.6f}" for of in numbers for one in of),
            ]
        )
    return text.getvalue().rstrip("\n")


def to_latex(names: Sequence[str], lines: Sequence[Line]) -> str:
    """Return a tabular for booktabs with the numbers of `to_markdown`."""
    rows = [[*map(_escaped, (line.task, line.metric)), *_texts(line, r" $\pm$ ")] for line in lines]
    head, *body = (
        f"{' & '.join(row)} \\\\" for row in [["task", "metric", *map(_escaped, names)], *rows]
    )
    begin = r"\begin{tabular}{ll" + "r" * len(names) + "}"
    return "\n".join(
        [begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def to_html(names: Sequence[str], lines: Sequence[Line]) -> str:
    """Return a self-contained page that shows each number with its interval on a scale from 0 to
    100 %. Negative numbers, as effective robustness may be, are drawn at 0."""
    rows = [
        {
            "task": line.task,
            "metric": line.metric,
            "cells": [
                {
                    "text": text,
                    "bar": (
                        "" if cell is None else interval_bar(cell.value, cell.low, cell.high, None)
                    ),
                }
                for cell, text in zip(line.cells, _texts(line, " \u00b1 "), strict=True)
            ],
        }
        for line in lines
    ]
    return render_page("open_diht.eval.report", "models.html.j2", names=names, rows=rows)


def _texts(line: Line, between: str) -> list[str]:
    found = []
    for number in line.cells:
        if number is None:
            found.append("-")
            continue
        spread = (
            ""
            if number.low is None or number.high is None
            else f"{between}{50 * (number.high - number.low):.1f}"
        )
        found.append(f"{100 * number.value:.1f}{spread}{MARK if number.other else ''}")
    return found


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "_%&#$" else letter for letter in text)


def _print(options: argparse.Namespace) -> int:
    lines = lines_of(options.folders)
    written = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex, "html": to_html}[
        options.format
    ]
    say(written(_names(options.folders), lines))
    if any(cell is not None and cell.other for line in lines for cell in line.cells):
        print(
            f"{MARK} another metric, or other data, rules or task version, than the first model's",
            file=sys.stderr,
        )
    return OK


main = command(parse, _print, failed=(EvalError,))


if __name__ == "__main__":
    sys.exit(main())
