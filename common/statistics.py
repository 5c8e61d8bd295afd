"""Confidence intervals of a proportion, and the chance level of retrieval."""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """The two ends of a confidence interval, in the unit of the estimate."""

    low: float
    high: float


def check_level(level: float) -> None:
    """Raise ValueError unless a confidence level lies between 0 and 1, exclusive."""
    if not 0 < level < 1:
        raise ValueError(
            f"confidence level {level}: expected a number between 0 and 1, such as 0.95"
        )


def wilson(hits: float, n: int, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a proportion of hits. `hits` need not be a whole number;
    if it is, the interval lies in [0, 1]. Raise ValueError for n < 1, hits outside 0 to n, or a
    level outside (0, 1).
    """
    check_level(level)
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"wilson: {hits} hits of {n} items; expected n >= 1 and 0 <= hits <= n")
    low, high = score_interval(hits / n, n, NormalDist().inv_cdf(0.5 + level / 2))
    # The ends at 0 and 1 are exact; rounding would leave 1e-17.
    return Interval(0.0 if hits == 0 else low, 1.0 if hits == n else high)


def score_interval(share: float, n: float, z: float) -> Interval:
    """Return the Wilson score interval of a proportion of `n` items. `n` may be an effective
    number, and need not be whole. The interval may exceed [0, 1] by rounding."""
    center = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Interval((center - spread) / scale, (center + spread) / scale)


def chance_of_hit(k: int, right: ArrayLike, among: int) -> float:
    """Return the probability that k candidates, drawn without replacement, include a right one
    (mean over queries)."""
    # Compute each distinct number once.
    numbers, often = np.unique(np.asarray(right), return_counts=True)
    missed = np.ones(len(numbers))
    for drawn in range(min(k, among)):
        missed *= np.maximum(among - numbers - drawn, 0) / (among - drawn)
    return float(np.average(1 - missed, weights=often))
