"""Tell how often a training of n samples should read each row, by the law of decaying usefulness.

A pair teaches less each time it is read (Goyal et al., CVPR 2024, "Scaling Laws for Data
Filtering"). Let a kept row's first reading be worth 1, and let the worth halve with every `HALVES`
readings. A row that the cascade rejects is worth as much as a kept row that was already read
`delay` times. Below the cap, in the best allotment the next reading is worth the same in every
group that is read. So all groups share one level t, and a group is read t - delay times: rejected
rows enter after `delay` readings of the kept ones, and from then on each group is read equally
often.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

DELAYS = {"complexity": 2.0, "action": 2.0, "text_spotting": 2.0}
"""Readings of the kept rows before the first reading of rows that were rejected for a reason."""
HALVES = 1.0
"""Number of readings after which the worth of a row is halved."""
ORIGIN = (
    "fitted on one half of the study's pools with small models (docs/howto/select.md#constants)"
)
"""Where these constants come from."""


def allotted(rows: ArrayLike, delays: ArrayLike, samples: float, cap: float) -> NDArray[np.float64]:
    """Return the mean readings of each group's rows, (groups,), which add up to `samples`. No delay
    is negative."""
    rows, delays = np.asarray(rows, np.float64), np.asarray(delays, np.float64)

    def readings(level: float) -> NDArray[np.float64]:
        return np.clip(level - delays, 0.0, cap)

    # The sum is linear in the level between the levels at which a group with rows enters or is at
    # its cap.
    levels = np.unique(np.concatenate([delays[rows > 0], delays[rows > 0] + cap]))
    return readings(float(np.interp(samples, [rows @ readings(level) for level in levels], levels)))


def worth(rows: ArrayLike, delays: ArrayLike, readings: ArrayLike, halves: float = HALVES) -> float:
    """Return what the readings of all groups are worth together. The unit is the first reading of a
    kept row."""
    rows, delays, readings = (np.asarray(one, np.float64) for one in (rows, delays, readings))
    decay = 0.5 ** (1 / halves)
    return float(rows @ (decay**delays * (1 - decay**readings))) / (1 - decay)


def per_row(
    group: NDArray[np.int64], value: NDArray[np.float64], means: Sequence[float]
) -> NDArray[np.int64]:
    """Return the whole number of readings of each row, (n,). The fractional part of a group's mean
    is the fraction of its rows that get one more reading: the rows with the highest `value`, with
    NaN last. Fractions of readings are rounded over all groups, so that the sum is exact."""
    found = np.zeros(len(group), np.int64)
    groups = [np.flatnonzero(group == number) for number in range(len(means))]
    ends = np.floor(
        np.cumsum([mean * len(rows) for mean, rows in zip(means, groups, strict=True)]) + 0.5
    )
    for rows, total in zip(groups, np.diff(ends, prepend=0).astype(np.int64).tolist(), strict=True):
        if len(rows):
            found[rows], more = divmod(total, len(rows))
            found[rows[np.argsort(-value[rows], kind="stable")[:more]]] += 1
    return found
