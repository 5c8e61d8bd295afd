"""Compare two arms over their common seeds and items.

Seeds and test images are both random samples, so both contribute to the error: two-way random
effects with Student's t (`open_diht.eval.statistics.crossed_difference`; benchmarks/RESULTS.md has
the coverage of such intervals). With many seeds a bootstrap crossed over seeds and images gives
about the same (tests/study/test_comparison.py). With five seeds it underestimates their variation,
and it counts a dominant interaction of seeds and images three times.

The same comparison with the seed alone as the unit takes the test items as given: a paired t test
over the seeds.

The captions of a photograph are not independent, so their mean counts once. Ranks are compared by
their geometric mean, which is far more sensitive than recall at k: the difference is that of mean
logarithms, reported in percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from open_diht.eval import estimates
from open_diht.eval.statistics import FEWEST, Estimate, Paired, crossed_difference, holm
from study.rows import BrokenRows, Row, Rows

Floats = NDArray[np.float64]
Side = Mapping[int, Row]
ALPHA = 0.05
"""Bound on the probability of any false positive in a whole table, by Holm's correction."""


@dataclass(frozen=True)
class Measure:
    name: str
    of: Callable[[NDArray[Any]], Floats]
    """Maps items (n,) to (n,) numbers, whose means are compared."""
    better: int
    """1 if higher is better, -1 if lower is better."""
    logarithmic: bool = False
    """True if the numbers are logarithms, so that a difference is a ratio."""
    words: tuple[str, str] = ("is better", "is worse")
    """The words for a better and for a worse number of an arm. Pages take these, so no sentence has
    a direction of its own."""

    def shown(self, value: float) -> float:
        """Return a mean in the unit of the page: a rank, or percent."""
        return math.exp(value) if self.logarithmic else 100 * value

    def change(self, difference: float) -> float:
        """Return a difference in the unit of the page: percent of a rank, or points."""
        return 100 * math.expm1(difference) if self.logarithmic else 100 * difference


RANK = Measure("rank", lambda ranks: np.log(ranks.astype(np.float64)), better=-1, logarithmic=True)
READING = Measure("rank", RANK.of, better=1, logarithmic=True, words=("reads less", "reads more"))
"""The rank of a caption's rendering, which is low only for a model that reads instead of seeing."""
R10 = Measure("R@10", lambda ranks: (ranks <= 10).astype(np.float64), better=1)
HITS = Measure("top-1", lambda hits: hits.astype(np.float64), better=1)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """B minus A by one measure. Differences and interval ends are in the unit of
    `Measure.change`."""

    measure: Measure
    a: float
    """Mean over seeds and items, in the unit of `Measure.shown`."""
    b: float
    difference: float
    low: float
    high: float
    p: float
    """p value of this comparison alone."""
    corrected: float = math.nan
    """p value corrected for all comparisons of a table. It is NaN before `corrected` has set it."""
    p_of_seeds: float
    """p value of this comparison alone with the seed as the unit."""
    corrected_of_seeds: float = math.nan
    """The same, corrected for all comparisons of a table. It is NaN before `corrected` has set
    it."""
    paired: Paired
    """The test, in the unit of `Measure.of`."""
    detectable: float = math.nan
    """The improvement that such a test would detect in 80 % of cases, whatever the other tests of
    its table give (as in the first step of the correction). It is NaN before `corrected` has set
    it, and 0 if it is unknown or no item changed."""
    seeds: int
    images: int

    @property
    def verdict(self) -> str:
        """`better` or `worse`, or `open` if the corrected p value is not below ALPHA."""
        if not self.corrected < ALPHA:
            return "open"
        return "better" if self.difference * self.measure.better > 0 else "worse"

    @property
    def holds_by_seeds(self) -> bool:
        """Return whether the verdict is the same with the seed alone as the unit: never for
        `open`."""
        return self.verdict != "open" and self.corrected_of_seeds < ALPHA


def compare(rows: Rows, a: Side, b: Side, items: str, measure: Measure) -> Compared | None:
    """Compare B with A on the same items. Return None if there are fewer than FEWEST common seeds,
    or too few images. Raises `BrokenRows` if items are missing or cannot be read, or differ in
    number between A and B.
    """
    seeds = sorted(a.keys() & b.keys())
    if len(seeds) < FEWEST:
        return None
    of_a, of_b = (
        [_estimate(rows, side[seed], items, measure) for seed in seeds] for side in (a, b)
    )
    if len(of_a[0].units) != len(of_b[0].units):
        raise BrokenRows(
            f"{b[seeds[0]].arm.key} and {a[seeds[0]].arm.key} were measured on other items"
        )
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
        p_of_seeds=_p_of_seeds(
            [two.value - one.value for one, two in zip(of_a, of_b, strict=True)]
        ),
        paired=found,
        seeds=len(seeds),
        images=len(of_a[0].units),
    )


def corrected(found: Sequence[Compared]) -> list[Compared]:
    """Return the comparisons with p values corrected for their number (Holm 1979) and the
    detectable differences."""

    def detectable(one: Compared) -> float:
        return one.measure.change(
            one.measure.better * (one.paired.detectable_among(len(found)) or 0.0)
        )

    ps = holm([one.p for one in found])
    of_seeds = holm([one.p_of_seeds for one in found])
    return [
        replace(one, corrected=p, corrected_of_seeds=p_of_seeds, detectable=detectable(one))
        for one, p, p_of_seeds in zip(found, ps, of_seeds, strict=True)
    ]


def _p_of_seeds(differences: Sequence[float]) -> float:
    """Return the two-sided p value of a paired t test over the seeds."""
    spread = float(np.std(differences, ddof=1))
    mean = float(np.mean(differences))
    if spread == 0:  # no t value: all seeds differ alike, or not at all
        return float(mean == 0)
    seeds = len(differences)
    return float(2 * stdtr(seeds - 1, -abs(mean) / (spread / math.sqrt(seeds))))


def _estimate(rows: Rows, row: Row, items: str, measure: Measure) -> Estimate:
    stored = rows.items(row.arm)
    if items not in stored:
        raise BrokenRows(f"{row.arm.key} has no items {items!r}; there are {', '.join(stored)}")
    return estimates.mean(measure.of(stored[items]), _images(stored, items))


def _images(stored: Mapping[str, NDArray[Any]], items: str) -> NDArray[np.int64] | None:
    """Return the image of every caption: images are in order, with equally many each. Return None
    for other items."""
    name, _, direction = items.rpartition("/")
    if direction != "t2i":
        return None
    captions = len(stored[items])
    # Rows that do not keep the other direction have one caption per image.
    images = len(stored.get(f"{name}/i2t", stored[items]))
    if captions % images:
        raise BrokenRows(
            f"{items}: {captions} captions of {images} images; expected as many of each"
        )
    # Captions are stored image by image.
    return np.arange(captions) // (captions // images)
