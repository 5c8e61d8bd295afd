"""Intervals: that they cover what they should, are where they can be, and shrink to nothing for a
full sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.pipelines.pilot.estimate import Estimate, _quantile, per_row, recut, share, total

_UNITS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12)


def test_quantiles_are_students() -> None:
    stats = pytest.importorskip(
        "scipy.stats", reason="scipy is not installed: pip install '.[dev]'"
    )
    for freedom in (1, 2, 3, 4, 7, 10, 31, 100, 199):
        assert _quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)
    assert _quantile(0) == pytest.approx(1.959964, abs=1e-5)


@given(_UNITS, st.integers(0, 10_000))
def test_shares_lie_in_their_interval_within_0_and_1(
    units: list[tuple[int, int]], more: int
) -> None:
    rows = [yes + no for yes, no in units]
    found = share([yes for yes, _ in units], rows, sum(rows) + more)
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    if more and any(rows):
        # Nothing found in a sample does not mean that there is nothing.
        assert found.low < found.high
    if not more and any(rows):
        assert found.low == found.value == found.high


def test_one_unit_gives_wilsons_interval_for_shares_and_none_for_costs() -> None:
    found = share([10], [100], 10**9)
    assert (found.low, found.high) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert per_row([5.0], [100], 10**9) == Estimate(0.05, None, None)


def test_no_rows() -> None:
    assert share([], [], 10) == share([0], [0], 10) == Estimate(0.0, 0.0, 1.0)
    assert per_row([], [], 10) == Estimate(0.0, None, None)


def test_what_units_and_rows_take_is_told_apart_by_two_sizes() -> None:
    rows = [1_000] * 5 + [4_000] * 3
    found = recut([7 + 0.5 * m for m in rows], rows, 100_000, 4)
    assert found.value == pytest.approx(4 * 7 + 0.5 * 100_000)
    assert [found.low, found.high] == [pytest.approx(found.value, rel=0.01)] * 2
    wild = recut(
        [7 + 0.5 * m * (1.1 if n % 2 else 0.9) for n, m in enumerate(rows)], rows, 100_000, 4
    )
    assert wild.low is not None and wild.high is not None and wild.low < found.value < wild.high


@pytest.mark.parametrize("rows", [[1_000] * 5, [1_000] * 5 + [4_000], [1_000], []])
def test_units_of_one_size_give_no_interval_for_others(rows: list[int]) -> None:
    found = recut([2.0 * m for m in rows], rows, 100_000, 4)
    assert (found.value, found.low, found.high) == (200_000.0 if rows else 0.0, None, None)


def test_alike_rows_within_units_widen_the_interval() -> None:
    mixed = share([50] * 10, [100] * 10, 10**9)
    alike = share([100, 0] * 5, [100] * 10, 10**9)
    assert mixed.value == alike.value == 0.5
    assert (
        mixed.high is not None
        and alike.high is not None
        and alike.high - 0.5 > 5 * (mixed.high - 0.5)
    )


@pytest.mark.parametrize(
    ("rate", "spread", "least"),
    [(0.2, 3.0, 0.88), (0.5, 20.0, 0.9), (0.02, 100.0, 0.9), (0.02, 10.0, 0.8)],
)
def test_intervals_cover_the_truth(rate: float, spread: float, least: float) -> None:
    """95 % intervals, for units whose rates differ. The last case is rough: most units have hardly
    any such row, a few have many, and twelve units tell little of that."""
    dice = np.random.default_rng(7)
    covered = narrow = 0
    trials = 400
    for _ in range(trials):
        rows = dice.integers(200, 2_000, 100)
        counts = dice.binomial(rows, dice.beta(rate * spread, (1 - rate) * spread, 100))
        seconds = rows * dice.gamma(20, 0.001, 100)
        drawn = dice.choice(100, 12, replace=False)
        sizes = rows[drawn].tolist()
        found = share(counts[drawn].tolist(), sizes, int(rows.sum()))
        cost = per_row(seconds[drawn].tolist(), sizes, int(rows.sum()))
        covered += found.low <= counts.sum() / rows.sum() <= found.high  # type: ignore[operator]
        narrow += cost.low <= seconds.sum() / rows.sum() <= cost.high  # type: ignore[operator]
    assert covered / trials >= least and narrow / trials >= 0.88


def test_totals() -> None:
    both = total([Estimate(1, 0.5, 2), Estimate(3, 2, 5)])
    assert both == Estimate(4, 2.5, 7)
    assert total([Estimate(1, 0.5, 2), Estimate(3, None, None)]) == Estimate(4, None, None)
    assert Estimate(2, 1, None).times(3) == Estimate(6, 3, None)
