"""The plots, from the lines of the tables and the rows of the tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from open_diht.common.html.charts import Point, Series, line_chart
from study.claims.negatives import CHOSEN_BY
from study.rows import TUNING, Rows
from study.tables import Line
from study.words import ARMS, pool_in_words

PHOTOGRAPHS = "flickr8k-test/t2i"
CHANGE = "change of the geometric-mean rank, %"


def cat_figure(lines: Sequence[Line]) -> str:
    """Plot the effect of filtering against how often a kept pair is seen. Raises ValueError without
    rows."""
    shown = [
        line for line in lines if line.items == PHOTOGRAPHS and line.b == "kept" and line.repeats
    ]
    series = _series(
        shown,
        lambda line: f"{pool_in_words(line.pool, line.pairs)}, against {ARMS[line.a]}",
        lambda line: line.repeats or 0,
    )
    title = "Kept by CAT: below 0 it is better"
    return line_chart(title, "how often a kept pair is seen", CHANGE, series, (0.5, 1, 2, 4, 8, 16))


def rivals_figure(lines: Sequence[Line]) -> str:
    """Plot masking against T over the fraction of pairs with text. Raises ValueError without
    rows."""
    shown = [
        line
        for line in lines
        if line.items == PHOTOGRAPHS and line.b.startswith("masked") and line.a != "all"
    ]
    names = {"masked": "one size", "masked-whole": "all they keep"}
    series = _series(
        shown,
        lambda line: f"{names[line.b]}, {line.budget / 1000:.0f}k",
        # A fifth of every pool has another caption written in.
        lambda line: int(line.pool.rpartition("-")[2]) + 20,
    )
    return line_chart(
        "Masking against T: below 0 it is better",
        "pairs with text, %",
        CHANGE,
        series,
        (20, 40, 60, 80),
    )


def concepts_figure(lines: Sequence[Line]) -> str:
    """Plot the effect of distillation against the samples seen. Raises ValueError without rows."""
    shown = [line for line in lines if line.items == PHOTOGRAPHS and line.a == "none"]
    series = _series(shown, lambda line: ARMS.get(line.b, line.b), lambda line: line.budget)
    budgets = sorted({line.budget for line in shown})
    return line_chart(
        "Concept distillation: below 0 it is better", "samples seen", CHANGE, series, budgets
    )


def negatives_figure(rows: Rows) -> str:
    """Plot the geometric-mean rank on the selecting pairs against the initial scale, a line for
    each beta, at the smallest budget. Bars are from the lowest to the highest seed. Raises
    ValueError without rows.
    """
    found = [row for row in rows.read("negatives") if row.arm.settings.get("stage") == TUNING]
    smallest = min((row.arm.budget for row in found), default=0)
    found = [row for row in found if row.arm.budget == smallest]
    scales = sorted({row.arm.settings["scale"] for row in found})
    series = []
    for beta in sorted({row.arm.settings["beta"] for row in found}):
        of_beta = [row for row in found if row.arm.settings["beta"] == beta]
        points = []
        for scale in scales:
            ranks = [
                row.metrics[CHOSEN_BY] for row in of_beta if row.arm.settings["scale"] == scale
            ]
            points.append(
                Point(scale, float(np.exp(np.mean(np.log(ranks)))), min(ranks), max(ranks))
            )
        series.append(Series(f"beta {beta:g}", points))
    title = f"HN-NCE after {smallest:,} samples, on the pairs that choose"
    return line_chart(
        title, "initial scale, 1 / temperature", "geometric-mean rank", series, scales
    )


def fewshot_figure(lines: Sequence[Line]) -> str:
    """Plot the probe's lead over the probe without text against k. Raises ValueError without
    rows."""
    shown = [line for line in lines if (line.b, line.a) == ("probe", "random-init")]
    series = _series(shown, lambda line: line.pool, lambda line: line.budget)
    shots = sorted({line.budget for line in shown})
    title = "The probe against random init: above 0 it is better"
    return line_chart(title, "images of each class, k", "top-1, points", series, shots)


def _series(
    lines: Sequence[Line], name: Callable[[Line], str], x: Callable[[Line], float]
) -> list[Series]:
    """Return the first measure's changes, a series for each name, in the order of the lines."""
    points: dict[str, list[Point]] = {}
    for line in lines:
        one = line.found[0]
        points.setdefault(name(line), []).append(Point(x(line), one.difference, one.low, one.high))
    return [
        Series(each, sorted(of_name, key=lambda point: point.x)) for each, of_name in points.items()
    ]
