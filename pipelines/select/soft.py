"""Spread the readings of a training over all rows by weights instead of verdicts.

The weight of a row is sigmoid(strength * (rank - 1/2)), by its rank in a column, and the product
of these over several columns. No row is discarded: with a strength of 6 the best row is read 20
times as often as the worst. Expected readings are proportional to weights, up to the most readings
of a row. Whole readings come from systematic sampling, so they add up to exactly the samples.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from open_diht.common.fields import Range

STRENGTHS = {8.0: 6.0, float("inf"): 9.0}
"""Default strengths, up to a number of samples per row. Of all rules of this form, it had the best
ranks on pools and seeds that were kept for tuning: 6 at 5.4 samples per row, 9 at 10.7
(study/claims/weights.py; 8 lies between)."""
Strength = Annotated[float, Range(at_least=0, at_most=100)]
"""Type of a strength. At 100, the weight of the last rank is 2e-22."""
_UNIT = 2**24
"""Parts of a reading. Sums of whole parts are exact, up to 2**39 samples."""
_NEARLY = 1e-9
"""Distance from a whole number that is taken for an error of rounding."""
_Keys = NDArray[np.uint64]


def default_strength(samples_per_row: float) -> float:
    """Return the strength of a column without one, for the mean readings of a row."""
    return next(strength for most, strength in STRENGTHS.items() if samples_per_row <= most)


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value, (n,), in (0, 1). Equal values share the mean of their ranks.
    NaN has a rank of 1/2 and does not count for the others."""
    there = ~np.isnan(values)
    _, place, count = np.unique(values[there], return_inverse=True, return_counts=True)
    found = np.full(len(values), 0.5)
    found[there] = ((np.cumsum(count) - count / 2) / max(1, count.sum()))[place]
    return found


def weight_of(rank: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """Return the weight of each rank, (n,), in (0, 1)."""
    return np.asarray(1 / (1 + np.exp(-strength * (rank - 0.5))))


def expected(weights: NDArray[np.float64], samples: int, cap: int) -> NDArray[np.float64]:
    """Return the expected readings of each row, (n,), which add up to `samples`, at most `cap *
    n`. Rows that would exceed `cap` get `cap`, and the others divide the rest by their weights."""
    falling = -np.sort(-weights)
    # Readings of a weight of 1 if as many of the heaviest rows as the index have `cap` readings.
    level = (samples - float(cap) * np.arange(len(falling))) / np.cumsum(falling[::-1])[::-1]
    first = int(np.argmax(level * falling <= cap * (1 + _NEARLY)))
    return np.minimum(level[first] * weights, cap)


def whole(expected: NDArray[np.float64], uid: NDArray[np.void], seed: int) -> NDArray[np.int64]:
    """Return whole readings of each row, (n,), which add up to the sum of the expected ones. Each
    is its expectation rounded up or down. Over all seeds its mean is the expectation.

    Args:
        expected: (n,) expected readings, whose sum is whole.
        uid: (n,) pairs of unsigned 64-bit numbers, in ascending order.
        seed: With the uids, it decides the order in which fractions of readings are added up.
    """
    order = np.argsort(hashes(uid, seed), kind="stable")
    mean = expected[order]
    low = np.floor(mean + _NEARLY).astype(np.int64) * _UNIT
    high = np.ceil(mean - _NEARLY).astype(np.int64) * _UNIT
    # Round down one part more than needed, then give out what is missing, so that sums are exact.
    parts = np.clip(np.floor(mean * _UNIT).astype(np.int64) - 1, low, high)
    missing = round(float(mean.sum())) * _UNIT - int(parts.sum())
    parts += np.diff(np.minimum(np.cumsum(np.minimum(high - parts, 4)), missing), prepend=0)
    start = int(_mixed(np.array([seed], np.uint64))[0]) % _UNIT
    found = np.empty(len(mean), np.int64)
    found[order] = np.diff((start + np.cumsum(parts)) // _UNIT, prepend=0)
    return found


def hashes(uid: NDArray[np.void], seed: int = 0) -> NDArray[np.uint64]:
    """Return a hash of each uid with a seed, (n,)."""
    key = _mixed(np.array([seed], np.uint64))
    return _mixed(_mixed(uid["f0"] ^ key) + uid["f1"])


def _mixed(keys: _Keys) -> _Keys:
    """Return a hash of each 64-bit number, that of SplitMix64."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
