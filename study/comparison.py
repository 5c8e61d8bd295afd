"""One arm against another, over the seeds that both have and the items that both were measured on.

Both another seed and other test images could have been drawn, so both count: two-way random effects with Student's t
(`open_diht.eval.statistics.crossed_difference`; benchmarks/coverage.py has how often such intervals hold what they
promise). With many seeds a bootstrap crossed over seeds and images gives the same (tests/study/test_comparison.py); of
five it knows too little of their luck, and where noise of single trainings prevails it counts that three times.

The captions of a photograph are not independent: their mean counts once. Ranks are compared by their geometric mean,
which is far more sensitive than the share at the top: the difference is that of mean logarithms, told in percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_diht.eval import estimates
from open_diht.eval.statistics import FEWEST, Estimate, crossed_difference, holm
from open_diht.study.rows import BrokenRows, Row, Rows

Floats = NDArray[np.float64]
Side = Mapping[int, Row]
"""The rows of an arm, one for each seed."""
ALPHA = 0.05
"""Chance of a false call in a whole table, by Holm's correction."""


@dataclass(frozen=True)
class Measure:
    """What is computed of the items of one arm."""

    name: str
    of: Callable[[NDArray[Any]], Floats]
    """Items (n,) to a number each; their mean is compared."""
    better: int
    """1: more is better; -1: less is."""
    logarithmic: bool = False
    """The number is a logarithm, a difference of it a ratio."""

    def shown(self, value: float) -> float:
        """A mean as people read it: a rank, or percent."""
        return math.exp(value) if self.logarithmic else 100 * value

    def change(self, difference: float) -> float:
        """A difference as people read it: percent of a rank, or points."""
        return 100 * math.expm1(difference) if self.logarithmic else 100 * difference


RANK = Measure("rank", lambda ranks: np.log(ranks.astype(np.float64)), better=-1, logarithmic=True)
R10 = Measure("R@10", lambda ranks: (ranks <= 10).astype(np.float64), better=1)
HITS = Measure("top-1", lambda hits: hits.astype(np.float64), better=1)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """B minus A by one measure; differences and ends of intervals as `Measure.change` tells them."""

    measure: Measure
    a: float
    """Mean over seeds and items, as `Measure.shown` tells it."""
    b: float
    difference: float
    low: float
    high: float
    p: float
    """As if nothing else had been compared."""
    corrected: float = math.nan
    """Of all that one table compares (`corrected`)."""
    detectable: float
    """The difference that such a test would show in 80 % of cases."""
    seeds: int
    images: int

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `open` where the corrected p value is above ALPHA."""
        if not self.corrected < ALPHA:
            return "open"
        return "better" if self.difference * self.measure.better > 0 else "worse"


def compare(rows: Rows, a: Side, b: Side, items: str, measure: Measure) -> Compared | None:
    """B against A on the items of that name; None with too few common seeds to tell their luck. Raises `BrokenRows`
    where items are missing, or others."""
    seeds = sorted(a.keys() & b.keys())
    if len(seeds) < FEWEST:
        return None
    of_a, of_b = ([_estimate(rows, side[seed], items, measure) for seed in seeds] for side in (a, b))
    if len(of_a[0].units) != len(of_b[0].units):
        raise BrokenRows(f"{b[seeds[0]].arm.key} and {a[seeds[0]].arm.key} were measured on other items")
    found = crossed_difference(of_a, of_b)
    if found.low is None or found.high is None or found.p is None:
        return None
    return Compared(
        measure=measure,
        a=measure.shown(float(np.mean([one.value for one in of_a]))),
        b=measure.shown(float(np.mean([one.value for one in of_b]))),
        difference=measure.change(found.difference),
        low=measure.change(found.low),
        high=measure.change(found.high),
        p=found.p,
        detectable=measure.change(found.detectable or 0.0),
        seeds=len(seeds),
        images=len(of_a[0].units),
    )


def corrected(found: Sequence[Compared]) -> list[Compared]:
    """The same with p values corrected for there being so many of them (Holm 1979)."""
    return [replace(one, corrected=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]


def _estimate(rows: Rows, row: Row, items: str, measure: Measure) -> Estimate:
    stored = rows.items(row.arm)
    if items not in stored:
        raise BrokenRows(f"{row.arm.key} has no items {items!r}; there are {', '.join(stored)}")
    return estimates.mean(measure.of(stored[items]), _images(stored, items))


def _images(stored: Mapping[str, NDArray[Any]], items: str) -> NDArray[np.int64] | None:
    """The image of every caption: they lie image by image, as many of each."""
    name, _, direction = items.rpartition("/")
    if direction != "t2i":
        return None
    captions, images = len(stored[items]), len(stored[f"{name}/i2t"])
    if captions % images:
        raise BrokenRows(f"{items}: {captions} captions of {images} images; expected as many of each")
    return np.arange(captions) // (captions // images)
