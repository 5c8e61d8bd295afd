"""Estimates from a random sample of units, with intervals that allow for similar rows within a
unit.

The units of a plan are clusters, drawn without replacement. Except in `recut`, an estimate is the
ratio of two sums over the sample, and its variance is that of a ratio estimator (Cochran 1977, 6.4)
with finite population correction. Units are the replicates, so they determine the degrees of
freedom.
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
"""Relative deviation of the cost of units from a straight line. Files are written in batches of
rows, and the partial last batch of a unit costs a little more per row."""


@dataclass(frozen=True)
class Estimate:
    """A value and its interval, whose ends are None if the sample has too few units or no rows."""

    value: float
    low: float | None
    high: float | None

    def times(self, factor: float) -> Estimate:
        """Return the estimate times a factor of at least 0, to change its unit or to get a
        total."""
        ends = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(self.value * factor, *ends)


def total(parts: Sequence[Estimate]) -> Estimate:
    """Return the sum of estimates. Its interval is rather wide: the ends are added as if all errors
    had one sign."""
    ends = ([part.low for part in parts], [part.high for part in parts])
    lows, highs = (None if None in end else sum(filter(None, end)) for end in ends)
    return Estimate(sum(part.value for part in parts), lows, highs)


def product(a: Estimate, b: Estimate) -> Estimate:
    """Return the product of two estimates that are at least 0, from the products of their ends."""
    ends = (
        None if x is None or y is None else x * y for x, y in ((a.low, b.low), (a.high, b.high))
    )
    return Estimate(a.value * b.value, *ends)


def share(counts: Sequence[int], rows: Sequence[int], all_rows: int) -> Estimate:
    """Return the proportion of rows of a kind, from the number of such rows and of all rows in each
    unit.

    The interval is Wilson's with the effective number of rows: the number of rows divided by the
    fraction not sampled and by the design effect, which tells how much less information a row
    carries because rows of a unit are similar (Dean and Pagano 2015, "modified Wilson"). The
    interval lies within 0 and 1. Its width is positive even if no row is of the kind, unless the
    sample covers `all_rows`. With one unit, rows are treated as independent, so the interval is too
    narrow. Without rows, the estimate is 0 with the interval 0 to 1.
    """
    y = np.asarray(counts, float)
    m = np.asarray(rows, float)
    sampled = m.sum()
    if not sampled:
        return Estimate(0.0, 0.0, 1.0)
    p = float(y.sum() / sampled)
    unseen = max(0.0, 1 - sampled / max(all_rows, sampled))
    if not unseen:
        return Estimate(p, p, p)
    effect = 1.0  # the design effect
    if len(m) > 1 and 0 < p < 1:  # otherwise the variance is 0 or unknown
        effect = max(1.0, _ratio_variance(y, m) / (p * (1 - p) / sampled))
    z = _quantile(len(m) - 1)
    low, high = score_interval(p, sampled / effect / unseen, z)
    # Rounding must not exclude the value.
    return Estimate(p, min(p, max(0.0, low)), max(p, min(1.0, high)))


def per_row(amounts: Sequence[float], rows: Sequence[int], all_rows: int) -> Estimate:
    """Return the cost of a row from the seconds or bytes of each unit, with Student's interval.
    With one unit or no rows there is no interval."""
    y = np.asarray(amounts, float)
    m = np.asarray(rows, float)
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
    """Return the total cost of all rows when they are cut into `units` units that are larger than
    those measured.

    A unit has a fixed cost (files, footers) and a cost per row; units of two sizes separate them.
    There is no interval without at least two units above the mean size and two that are not. The
    fit is a line by weighted least squares. Its variance comes from the residuals alone (HC2,
    MacKinnon and White 1985), because noise may grow with the unit. Student's quantile has one
    degree of freedom less than there are units of the rarer size. The interval is widened by
    `_BENT` of the total.
    """
    y = np.asarray(amounts, float)
    m = np.asarray(rows, float)
    larger = int((m > m.mean()).sum()) if len(m) else 0
    freedom = min(larger, len(m) - larger) - 1
    if freedom < 1:
        return Estimate(per_row(amounts, rows, all_rows).times(all_rows).value, None, None)
    x = np.stack([np.ones_like(m), m], axis=1)
    weight = 1 / np.maximum(m, 1)
    # (2, n): both coefficients as weighted sums over units.
    line = np.linalg.inv((x.T * weight) @ x) @ (x.T * weight)
    leverage = np.einsum("ij,ji->i", x, line)
    each = np.array([units, all_rows]) @ line  # the total cost as such a sum
    residuals = y - x @ (line @ y)
    half = _quantile(freedom) * math.sqrt(float((each**2 * residuals**2 / (1 - leverage)).sum()))
    value = max(0.0, float(each @ y))
    half += _BENT * value
    return Estimate(value, max(0.0, value - half), value + half)


def _ratio_variance(y: np.ndarray, m: np.ndarray) -> float:
    """Estimate the variance of sum(y) / sum(m) for units drawn with replacement."""
    residuals = y - y.sum() / m.sum() * m
    n = len(m)
    return float(n / (n - 1) * (residuals**2).sum() / m.sum() ** 2)


def _quantile(freedom: int) -> float:
    """Return the half width of the central `LEVEL` of Student's t. Use the normal distribution for
    no degree of freedom (one unit) and for more than 200."""
    if freedom < 1 or freedom > 200:
        return NormalDist().inv_cdf((1 + LEVEL) / 2)
    low = 0.0
    high = 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, freedom) < LEVEL else (low, middle)
    return high


def _student(t: float, freedom: int) -> float:
    """Return P(|T| <= t) for integer degrees of freedom (Abramowitz and Stegun 26.7.3 and
    26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    series = 0.0
    for step in range(1 + odd, freedom, 2):  # the terms below the power freedom - 1
        series += term
        term *= cosine * cosine * step / (step + 1)
    return 2 / math.pi * (angle + math.sin(angle) * series) if odd else math.sin(angle) * series
