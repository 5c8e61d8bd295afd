"""The plots, from the lines of the tables and the rows of the tuning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from open_diht.common.html.charts import Point, Series, line_chart
from study.comparison import RANK
from study.rows import TUNING, Row, Rows
from study.tables import Line
from study.words import ARMS

PHOTOGRAPHS = "flickr8k-test/t2i"
CHANGE = "change of the geometric-mean rank, %"


def cat_figure(lines: Sequence[Line]) -> str:
    """Plot the effect of filtering against how often a kept pair is seen. Raises ValueError without rows."""
    shown = [line for line in lines if line.items == PHOTOGRAPHS and line.b == "kept" and line.repeats]
    series = [
        _series(f"{pool}, against {ARMS[a]}", (line for line in shown if (line.pool, line.a) == (pool, a)))
        for pool in dict.fromkeys(line.pool for line in shown)
        for a in ("all", "random")
    ]
    title = "Kept by CAT: below 0 it is better"
    return line_chart(title, "how often a kept pair is seen", CHANGE, series, (0.5, 1, 2, 4, 8, 16))


def rivals_figure(lines: Sequence[Line]) -> str:
    """Plot masking against T over the fraction of pairs with text. Raises ValueError without rows."""
    shown = [line for line in lines if line.items == PHOTOGRAPHS and line.b.startswith("masked") and line.a != "all"]
    names = {"masked": "one size", "masked-whole": "all they keep"}
    series = [
        Series(
            f"{names[b]}, {budget / 1000:.0f}k",
            [
                Point(percent, line.found[0].difference, line.found[0].low, line.found[0].high)
                # A fifth of every pool has another caption written in.
                for percent, line in sorted(((int(one.pool.rpartition("-")[2]) + 20, one) for one in shown), key=_first)
                if (line.b, line.budget) == (b, budget)
            ],
        )
        for b in names
        for budget in sorted({line.budget for line in shown})
    ]
    return line_chart("Masking against T: below 0 it is better", "pairs with text, %", CHANGE, series, (20, 40, 60, 80))


def concepts_figure(lines: Sequence[Line]) -> str:
    """Plot the effect of distillation against the samples seen. Raises ValueError without rows."""
    shown = [line for line in lines if line.items == PHOTOGRAPHS and line.a == "none"]
    series = [
        _series(ARMS.get(b, b), (line for line in shown if line.b == b))
        for b in dict.fromkeys(line.b for line in shown)
    ]
    budgets = sorted({line.budget for line in shown})
    return line_chart("Concept distillation: below 0 it is better", "samples seen", CHANGE, series, budgets)


def negatives_figure(rows: Rows) -> str:
    """Plot the geometric-mean rank on the selecting pairs against the initial scale, a line for each beta, at the
    smallest budget. Bars are from the lowest to the highest seed. Raises ValueError without rows."""
    found = [row for row in rows.read("negatives") if row.arm.settings.get("stage") == TUNING]
    smallest = min((row.arm.budget for row in found), default=0)
    found = [row for row in found if row.arm.budget == smallest]
    scales = sorted({row.arm.settings["scale"] for row in found})
    series = [
        Series(f"beta {beta:g}", tuple(_of_scale(scale, _ranks(found, beta, scale)) for scale in scales))
        for beta in sorted({row.arm.settings["beta"] for row in found})
    ]
    title = f"HN-NCE after {smallest:,} samples, on the pairs that choose"
    return line_chart(title, "initial scale, 1 / temperature", "geometric-mean rank", series, scales)


def fewshot_figure(lines: Sequence[Line]) -> str:
    """Plot the probe's lead over the probe without text against k. Raises ValueError without rows."""
    shown = [line for line in lines if (line.b, line.a) == ("probe", "random-init")]
    series = [
        _series(pool, (line for line in shown if line.pool == pool))
        for pool in dict.fromkeys(line.pool for line in shown)
    ]
    shots = sorted({line.budget for line in shown})
    return line_chart(
        "The probe against random init: above 0 it is better", "images of each class, k", "top-1, points", series, shots
    )


def _first(pair: tuple[int, Line]) -> int:
    return pair[0]


def _series(name: str, lines: Iterable[Line]) -> Series:
    # The horizontal axis is the number of repeats where there is one.
    found = [(line.repeats or line.budget, line.found[0]) for line in lines]
    points = (Point(x, one.difference, one.low, one.high) for x, one in sorted(found, key=lambda each: each[0]))
    return Series(name, tuple(points))


def _ranks(rows: Sequence[Row], beta: float, scale: float) -> list[float]:
    wanted = {"beta": beta, "scale": scale}
    name = f"web-chosen/t2i/gm_{RANK.name}"
    return [row.metrics[name] for row in rows if {key: row.arm.settings[key] for key in wanted} == wanted]


def _of_scale(scale: float, ranks: Sequence[float]) -> Point:
    return Point(scale, float(np.exp(np.mean(np.log(ranks)))), min(ranks), max(ranks))
