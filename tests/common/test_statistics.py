"""An interval that covers, and what guessing gives: scipy as oracle, coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from open_diht.common.statistics import chance_of_hit, wilson


class TestWilson:
    @given(
        st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
        st.floats(0.5, 0.999),
    )
    def test_equals_scipy(self, counts: tuple[int, int], level: float) -> None:
        hits, n = counts
        theirs = binomtest(hits, n).proportion_ci(level, method="wilson")
        assert wilson(hits, n, level) == pytest.approx((theirs.low, theirs.high), abs=1e-9)

    @pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 5), (6, 5)])
    def test_refuses_impossible_counts(self, hits: int, n: int) -> None:
        with pytest.raises(ValueError, match=f"{hits} hits of {n}"):
            wilson(hits, n)

    def test_refuses_levels_in_percent(self) -> None:
        with pytest.raises(ValueError, match=r"0\.95"):
            wilson(1, 2, level=95)


def test_chance_is_what_drawing_without_replacement_gives() -> None:
    assert chance_of_hit(10, np.ones(1, dtype=int), 120) == pytest.approx(10 / 120)
    assert chance_of_hit(1, np.array([5, 7]), 100) == pytest.approx(0.06)
    assert chance_of_hit(10, np.array([3]), 8) == 1.0
    generator = np.random.default_rng(0)
    # 4 right ones among 30.
    drawn = [(generator.permutation(30)[:5] < 4).any() for _ in range(4000)]
    assert chance_of_hit(5, np.array([4]), 30) == pytest.approx(np.mean(drawn), abs=0.02)
    assert chance_of_hit(3, [2], 10) == pytest.approx(1 - math.comb(8, 3) / math.comb(10, 3))
