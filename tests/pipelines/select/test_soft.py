"""Readings by weights: exact sums, bounds, and expectations that depend on ranks alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from open_diht.pipelines.select.soft import (
    default_strength,
    expected,
    hashes,
    ranks,
    weight_of,
    whole,
)

PAIR = np.dtype("<u8,<u8")
VALUES = st.lists(
    st.one_of(st.floats(allow_infinity=True, allow_nan=True), st.integers(0, 3).map(float)),
    min_size=1,
    max_size=60,
)
STRENGTHS = st.floats(0, 100)


def uids(count: int, first: int = 0) -> NDArray[Any]:
    """The least random uids: small numbers in order."""
    return np.array([(0, number) for number in range(first, first + count)], PAIR)


@st.composite
def budgets(draw: Any) -> tuple[NDArray[np.float64], int, int]:
    """Values of rows, samples and a cap that allows them."""
    values = np.array(draw(VALUES))
    cap = draw(st.integers(1, 12))
    return values, draw(st.integers(1, cap * len(values))), cap


def test_the_default_strength_grows_with_the_samples_per_row():
    assert default_strength(0.1) == default_strength(8) == 6
    assert default_strength(8.01) == default_strength(1000) == 9


@given(budget=budgets(), strength=STRENGTHS, seed=st.integers(0, 2**60))
def test_readings_are_exact_bounded_and_monotone(budget, strength, seed):
    values, samples, cap = budget
    mean = expected(weight_of(ranks(values), strength), samples, cap)
    assert mean.sum() == pytest.approx(samples) and (mean <= cap).all() and (mean > 0).all()
    there = ~np.isnan(values)
    order = np.argsort(values[there], kind="stable")
    step = np.diff(mean[there][order])
    assert (step >= 0).all() and (step[np.diff(values[there][order]) == 0] == 0).all()
    readings = whole(mean, uids(len(values)), seed)
    assert readings.sum() == samples and readings.max() <= cap
    assert (np.abs(readings - mean) < 1 + 1e-6).all()


@given(budget=budgets(), strengths=st.lists(STRENGTHS, min_size=2, max_size=3))
def test_rows_below_the_bound_share_what_is_left_by_their_weights(budget, strengths):
    values, samples, cap = budget
    weights = np.prod([weight_of(ranks(values), strength) for strength in strengths], axis=0)
    mean = expected(weights, samples, cap)
    free = mean < cap
    assert not free.any() or np.ptp(mean[free] / weights[free]) <= 1e-6 * max(
        mean[free] / weights[free]
    )
    # No row at the bound has a lower weight than one below it.
    assert free.all() or not free.any() or weights[free].max() <= weights[~free].min()


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=50), seed=st.integers(0, 2**60))
def test_whole_expectations_are_read_as_they_are(counts, seed):
    mean = np.array(counts, np.float64)
    assert whole(mean, uids(len(counts)), seed).tolist() == counts


@settings(deadline=None)
@given(values=VALUES, strength=st.floats(0, 20), times=st.integers(1, 4))
def test_a_pool_with_each_value_several_times_has_the_same_expectations(values, strength, times):
    """Other rows matter only by the ranks: more rows of the same values and as many more samples
    change nothing."""
    once = np.array(values)
    samples = 2 * len(once)
    mean = expected(weight_of(ranks(once), strength), samples, 12)
    several = expected(weight_of(ranks(np.repeat(once, times)), strength), samples * times, 12)
    assert several == pytest.approx(np.repeat(mean, times))


@given(values=VALUES, more=VALUES, seed=st.integers(0, 9))
def test_further_rows_change_neither_the_order_of_others_nor_their_relation(values, more, seed):
    """Equal values stay equal, a higher value stays as often expected or more often, and the order
    in which fractions are added up is that of before."""
    both = np.array([*values, *more])
    mean = expected(weight_of(ranks(both), 6), 2 * len(both), 12)[: len(values)]
    there = ~np.isnan(values)
    order = np.argsort(np.array(values)[there], kind="stable")
    assert (np.diff(mean[there][order]) >= 0).all()
    all_ = uids(len(both))
    assert hashes(all_, seed)[: len(values)].tolist() == hashes(uids(len(values)), seed).tolist()


def test_over_seeds_the_mean_is_the_expectation() -> None:
    """Also for uids that differ only in their last bits."""
    rng = np.random.default_rng(3)
    mean = expected(weight_of(ranks(rng.random(300)), 6), 500, 3)
    seeds = range(600)
    found = np.mean([whole(mean, uids(300), seed) for seed in seeds], axis=0)
    part = mean % 1
    deviation = np.sqrt(part * (1 - part) / len(seeds))
    assert (np.abs(found - mean) <= 5 * deviation + 1e-9).all()
    assert abs((found - mean) / np.maximum(deviation, 1e-9))[part > 0.01].mean() < 1


def test_ranks_share_ties_and_leave_missing_values_in_the_middle() -> None:
    values = np.array([3.0, np.nan, 1, 3, np.inf])
    assert ranks(values).tolist() == [0.5, 0.5, 0.125, 0.5, 0.875]
    assert ranks(np.full(3, np.nan)).tolist() == [0.5] * 3
    best, worst = weight_of(np.array([1.0, 0.0]), 6)
    assert best / worst == pytest.approx(20.1, abs=0.1)
    # A decision of which half passes: the ratio of 1 to 0.3 of a strength of 4.8.
    kept = weight_of(ranks(np.array([0.0, 1, 1, 0])), 4.8)
    assert kept[0] / kept[1] == pytest.approx(0.3, abs=0.005)


def test_seed_and_uid_decide_which_fractions_are_rounded_up() -> None:
    mean = np.full(100, 0.5)
    some = [whole(mean, uids(100), seed).tolist() for seed in (0, 0, 1)]
    assert some[0] == some[1] != some[2]
    assert whole(mean, uids(100, 7), 0).tolist() != some[0]
