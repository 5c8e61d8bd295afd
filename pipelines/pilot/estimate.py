"""Estimates from a random sample of units, with intervals that know that the rows of a unit are alike.

The units of a plan are clusters, drawn without replacement; an estimate is the ratio of two sums over the sample, its
variance that of a ratio estimator (Cochran 1977, 6.4) with the correction for a finite population. A unit is the
replicate, so degrees of freedom count units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from open_diht.common.statistics import score_interval

LEVEL = 0.95
_BENT = 0.005
"""How far what units take may lie off a line, in parts of it: files are written in batches of rows, and the last one of
a unit, which is not full, takes a little more for each row."""


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; None where a single unit allows none."""

    value: float
    low: float | None
    high: float | None

    def times(self, factor: float) -> Estimate:
        """The same in another unit, or of a total. `factor` is at least 0."""
        ends = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(self.value * factor, *ends)


def total(parts: Sequence[Estimate]) -> Estimate:
    """The sum of estimates. Ends are added, as if all erred in the same direction: wide rather than wrong."""
    lows, highs = [part.low for part in parts], [part.high for part in parts]
    return Estimate(
        sum(part.value for part in parts),
        None if None in lows else sum(low for low in lows if low is not None),
        None if None in highs else sum(high for high in highs if high is not None),
    )


def share(counts: Sequence[int], rows: Sequence[int], all_rows: int) -> Estimate:
    """The proportion of rows of a kind.

    Wilson's interval with the effective number of rows: the number of rows divided by the design effect, which says how
    much less a row tells because its unit's other rows are like it (Dean and Pagano 2015, "modified Wilson"). Never
    outside 0 and 1, and of positive width also where nothing was found. One unit: rows are taken as independent, which
    they are not, so the interval is then too narrow.

    Args:
        counts: rows of the kind in each unit of the sample.
        rows: all rows of each.
        all_rows: rows of the whole population; of a sample that is all of it the share is exact.
    """
    y, m = np.asarray(counts, float), np.asarray(rows, float)
    sampled = m.sum()
    if not sampled:
        return Estimate(0.0, 0.0, 1.0)
    p = float(y.sum() / sampled)
    unseen = max(0.0, 1 - sampled / max(all_rows, sampled))
    if not unseen:
        return Estimate(p, p, p)
    effect = 1.0
    if len(m) > 1 and 0 < p < 1:
        effect = max(1.0, _ratio_variance(y, m) / (p * (1 - p) / sampled))
    z = _quantile(len(m) - 1)
    low, high = score_interval(p, sampled / effect / unseen, z)
    return Estimate(p, min(p, max(0.0, low)), max(p, min(1.0, high)))  # rounding must not leave the value outside


def per_row(amounts: Sequence[float], rows: Sequence[int], all_rows: int) -> Estimate:
    """What a row costs in seconds or bytes: the ratio of sums, with Student's interval. One unit: no interval."""
    y, m = np.asarray(amounts, float), np.asarray(rows, float)
    sampled = m.sum()
    if not sampled:
        return Estimate(0.0, None, None)
    ratio = float(y.sum() / sampled)
    if len(m) < 2:
        return Estimate(ratio, None, None)
    unseen = max(0.0, 1 - sampled / max(all_rows, sampled))
    half = _quantile(len(m) - 1) * math.sqrt(unseen * _ratio_variance(y, m))
    return Estimate(ratio, max(0.0, ratio - half), ratio + half)


def recut(amounts: Sequence[float], rows: Sequence[int], all_rows: int, units: int) -> Estimate:
    """What all rows take in seconds or bytes when they are cut into `units` units, larger ones than were measured.

    A unit takes something for itself (files, footers) and something for every row; units of two sizes tell both apart:
    a line by weighted least squares, its variance from the residuals alone (HC2, MacKinnon and White 1985: noise may
    grow with the unit), Student's quantile for the fewer of the smaller and the larger units.

    Args:
        amounts: of each unit of the sample.
        rows: of each; of two sizes at least, else there is no interval.
        all_rows: rows of the whole population.
        units: how many units these are cut into.
    """
    y, m = np.asarray(amounts, float), np.asarray(rows, float)
    larger = int((m > m.mean()).sum()) if len(m) else 0
    freedom = min(larger, len(m) - larger) - 1
    if freedom < 1:
        return Estimate(per_row(amounts, rows, all_rows).times(all_rows).value, None, None)
    x, weight = np.stack([np.ones_like(m), m], axis=1), 1 / np.maximum(m, 1)
    line = np.linalg.inv((x.T * weight) @ x) @ (x.T * weight)  # its two coefficients as sums over the units
    leverage = np.einsum("ij,ji->i", x, line)
    each = np.array([units, all_rows]) @ line  # and what all rows take as such a sum
    residuals = y - x @ (line @ y)
    half = _quantile(freedom) * math.sqrt(float((each**2 * residuals**2 / (1 - leverage)).sum()))
    value = max(0.0, float(each @ y))
    half += _BENT * value
    return Estimate(value, max(0.0, value - half), value + half)


def _ratio_variance(y: np.ndarray, m: np.ndarray) -> float:
    """Of sum(y) / sum(m), of units drawn with replacement."""
    residuals = y - y.sum() / m.sum() * m
    n = len(m)
    return float(n / (n - 1) * (residuals**2).sum() / m.sum() ** 2)


def _quantile(freedom: int) -> float:
    """The half width of the central `LEVEL` of Student's t, or of the normal distribution for no freedom (one unit) or
    much."""
    if freedom < 1 or freedom > 200:
        return NormalDist().inv_cdf((1 + LEVEL) / 2)
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, freedom) < LEVEL else (low, middle)
    return high


def _student(t: float, freedom: int) -> float:
    """P(|T| <= t) for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = cosine if odd else 1.0
    series = 0.0
    for step in range(1 + odd, freedom, 2):  # the terms before the power freedom - 1
        series += term
        term *= cosine * cosine * step / (step + 1)
    return 2 / math.pi * (angle + math.sin(angle) * series) if odd else math.sin(angle) * series
