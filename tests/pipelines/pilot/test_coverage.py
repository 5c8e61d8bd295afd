"""Coverage: over many draws of a sample, how often the intervals hold the known whole, cut as a run
cuts it."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from open_diht.pipelines.manifests import Span
from open_diht.pipelines.manifests.plan import Unit
from open_diht.pipelines.pilot.forecast import Forecast, Measured, Whole, forecast
from open_diht.pipelines.pilot.sample import two_sizes

ROWS = 2_000
SMALL = 100
RUN = 4
TRIALS = 250
"""Rows of a small unit, how many of these there are, how many units a run makes of them, and how
many draws."""
SECONDS = {"captions": (0.05, 0.005), "decide": (0.08, 0.0003), "dedup": (0.03, 0.00003)}
STORED = {"kept": (6_000, 55), "rejected": (6_000, 31), "work": (12_000, 143)}
"""What a unit takes for itself and for a row, about as measured."""
UNITS = [
    Unit(
        f"{n:05d}",
        Span(
            path="a", format="parquet", start=n * ROWS, stop=(n + 1) * ROWS, rows=ROWS, exact=True
        ),
    )
    for n in range(SMALL)
]


class _Population:
    """Small units that differ in what their rows take and in what proportion of them is kept."""

    def __init__(self, dice: np.random.Generator, noise: float):
        self._dice = dice
        self._noise = noise
        self.rates = dice.beta(20, 60, SMALL)
        self._rows = {
            name: dice.gamma(50, row / 50, SMALL) * ROWS
            for name, (_, row) in (SECONDS | STORED).items()
        }

    def _takes(self, name: str, first: int, stop: int) -> float:
        return (SECONDS | STORED)[name][0] + float(self._rows[name][first:stop].sum())

    def takes(self, name: str) -> float:
        """All of it, in the units of a run."""
        edges = range(0, SMALL, SMALL // RUN)
        return sum(self._takes(name, first, first + SMALL // RUN) for first in edges)

    def measured(self, unit: Unit) -> Measured:
        """A unit as a pilot finds it; seconds depend on what else the machine does."""
        first = unit.span.start // ROWS
        stop = unit.span.stop // ROWS
        kept = int(self._dice.binomial(ROWS, self.rates[first:stop]).sum())
        shape = 1 / self._noise**2
        return Measured(
            unit=unit.name,
            rows=unit.span.rows,
            outcomes={"kept": kept, "action": unit.span.rows - kept},
            to_fetch=kept,
            seconds={
                name: self._takes(name, first, stop) * self._dice.gamma(shape, 1 / shape)
                for name in SECONDS
            },
            stored={name: round(self._takes(name, first, stop)) for name in STORED},
        )

    def forecast(self, sample: Sequence[Unit]) -> Forecast:
        rows = ROWS * SMALL
        whole = Whole(
            units=RUN,
            recut=True,
            rows=rows,
            exact_rows=True,
            stages=("captions",),
            has_images=False,
        )
        return forecast([self.measured(unit) for unit in sample], whole)


def _covered(noise: float) -> dict[str, float]:
    """The proportion of draws whose interval holds the truth, by quantity."""
    dice = np.random.default_rng(11)
    hits: Counter[str] = Counter()
    for trial in range(TRIALS):
        population = _Population(dice, noise)
        sample = two_sizes(UNITS, 20, random.Random(trial))
        assert sample is not None
        found = population.forecast(sample)
        intervals = {name: found.core_hours[name].estimate for name in SECONDS} | {
            name: found.stored[name].estimate for name in STORED
        }
        for name, interval in intervals.items():
            assert interval and interval.low is not None and interval.high is not None
            truth = population.takes(name) / (3600 if name in SECONDS else 1)
            hits[name] += interval.low <= truth <= interval.high
        share = found.rates["kept"]
        assert share.low is not None and share.high is not None
        hits["share"] += share.low <= population.rates.mean() <= share.high
    return {name: count / TRIALS for name, count in hits.items()}


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_what_a_run_of_larger_units_takes_lies_in_the_intervals(noise: float) -> None:
    covered = _covered(noise)
    assert min(covered.values()) >= 0.93, covered
