"""Intervals and tests from each image's part in a number; how often they hold is in
benchmarks/RESULTS.md."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp

from open_diht.common.statistics import Interval, wilson
from open_diht.eval import estimates
from open_diht.eval.statistics import (
    Estimate,
    average,
    average_difference,
    crossed,
    crossed_difference,
    crossed_interval,
    difference,
    disagreement_interval,
    holm,
    mcnemar,
    share_interval,
)


def worlds(rounds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(rounds)]


def holds(found: list[tuple[Interval | None, float]]) -> float:
    return float(
        np.mean([ends is not None and ends[0] <= truth <= ends[1] for ends, truth in found])
    )


class TestInterval:
    @pytest.mark.parametrize(("hits", "n"), [(0, 30), (1, 100), (1400, 2000), (99, 100), (30, 30)])
    def test_of_independent_hits_is_the_exact_one(self, hits, n):
        found = estimates.mean(np.repeat([1, 0], [hits, n - hits])).interval()
        theirs = binomtest(hits, n).proportion_ci(method="exact")
        assert found is not None and tuple(found) == pytest.approx(
            (theirs.low, theirs.high), abs=1e-9
        )

    def test_captions_of_one_image_do_not_count_as_five(self):
        images = np.repeat(np.arange(200), 5)
        # Five captions, one fate.
        hits = np.repeat(np.random.default_rng(0).integers(0, 2, size=200), 5)
        assert estimates.mean(hits, images).interval() == pytest.approx(
            estimates.mean(hits[::5]).interval()
        )

    def test_all_hits_are_not_certainty(self):
        for p in (0.0, 1.0):
            found = estimates.mean(np.full(60, p), np.repeat(np.arange(12), 5)).interval()
            assert (
                found is not None and found.high - found.low > 0.2 and found.low <= p <= found.high
            )

    def test_one_image_is_too_few(self):
        assert estimates.mean([0.0, 1.0], [7, 7]).interval() is None
        assert share_interval(0.5, 0.01, df=0, most=3) is None

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
    def test_lies_within_0_and_1_around_the_value(self, values):
        found = estimates.mean(values)
        ends = found.interval()
        assert (
            ends is not None
            and -1e-9 <= ends.low <= found.value + 1e-9
            and found.value - 1e-9 <= ends.high <= 1
        )

    def test_holds_for_rare_hits_in_clusters(self):
        owner = np.repeat(np.arange(100), 5)
        found = []
        for generator in worlds(200):
            ease = generator.beta(0.02, 1.98, size=(100, 1))
            hits = (generator.random((100, 5)) < ease).ravel()
            found.append((estimates.mean(hits, owner).interval(), 0.01))
        assert holds(found) > 0.9


class TestAverage:
    @staticmethod
    def both_ways(generator: np.random.Generator, images: int = 150) -> tuple[Estimate, Estimate]:
        ease = generator.beta(0.5, 0.5, size=images)
        to_image = generator.random(5 * images) < np.repeat(ease, 5)
        return estimates.mean(to_image, np.repeat(np.arange(images), 5)), estimates.mean(
            generator.random(images) < ease
        )

    def test_two_directions_on_one_set_of_images_share_their_luck(self):
        shared = []
        apart = []
        for generator in worlds(300):
            one, other = self.both_ways(generator)
            shared.append((average([("set", one), ("set", other)]).interval(), 0.5))
            apart.append((average([("one", one), ("other", other)]).interval(), 0.5))
        assert holds(shared) > 0.92 and holds(apart) < holds(shared) - 0.03

    def test_equal_models_are_rarely_told_apart_by_it(self):
        alarms = []
        for generator in worlds(300):
            a = self.both_ways(generator)
            b = self.both_ways(generator)
            p = average_difference([("set", one, two) for one, two in zip(a, b, strict=True)]).p
            alarms.append(p is not None and p < 0.05)
        assert np.mean(alarms) < 0.08

    def test_independent_tasks_shrink_the_error_by_the_root(self):
        task = estimates.mean(np.tile([0.0, 1.0], 200))
        found = average([(number, task) for number in range(4)])
        assert found.value == 0.5 and found.variance == pytest.approx(task.variance / 4)
        assert average([("same", task)] * 4).variance == pytest.approx(task.variance)
        assert (
            average([(0, estimates.mean(np.ones(3))), (1, estimates.mean(np.zeros(3000)))]).value
            == 0.5
        )

    def test_a_small_task_that_got_everything_right_is_as_unsure_in_an_average_as_alone(self):
        told = []
        for generator in worlds(300):
            of = [estimates.mean(generator.random(n) < p) for n, p in ((10, 0.97), (2000, 0.7))]
            told.append((average(list(enumerate(of))).interval(), (0.97 + 0.7) / 2))
        assert holds(told) > 0.9
        whole = estimates.mean(np.ones(10))
        large = estimates.mean(np.tile([0.0, 1.0], 100_000))
        found = average([(0, whole), (1, large)]).interval()
        alone = whole.interval()
        assert found is not None and alone is not None
        assert (
            0.75 - found.low == pytest.approx((1 - alone.low) / 2, rel=0.01) and found.high < 0.752
        )

    def test_the_same_number_twice_is_as_sure_as_once(self):
        for hits in (np.tile([0.0, 1.0], 20), np.ones(12)):
            task = estimates.mean(hits)
            twice = average([("set", task), ("set", task)]).interval()
            once = task.interval()
            assert twice is not None and once is not None
            assert (twice.low, twice.high) == pytest.approx((once.low, once.high))

    def test_a_task_of_too_few_items_leaves_no_interval_and_nothing_has_no_average(self):
        hits = estimates.mean(np.tile([0.0, 1.0], 20))
        few = estimates.roc_auc([0.1, 0.2, 0.15], [0, 0, 1])
        assert average([(0, hits), (1, few)]).interval() is None
        with pytest.raises(ValueError, match="no numbers"):
            average([])


class TestPaired:
    @given(st.integers(0, 300), st.integers(0, 300))
    def test_mcnemar_is_the_binomial_test_of_the_disagreements(self, only_a, only_b):
        a = np.repeat([1, 0, 1, 0], [only_a, only_b, 7, 5])
        b = np.repeat([0, 1, 1, 0], [only_a, only_b, 7, 5])
        expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)

    def test_mcnemar_stays_exact_far_out_and_is_symmetric(self):
        a = np.zeros(900)
        b = np.ones(900)
        assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(2.0**-899, rel=1e-12)
        with pytest.raises(ValueError, match="0 or 1"):
            mcnemar([0.3], [1.0])
        with pytest.raises(ValueError, match="A has 3, B has 4"):
            mcnemar(np.zeros(3), np.zeros(4))

    def test_independent_items_are_a_t_test_of_the_changes(self):
        generator = np.random.default_rng(0)
        a = generator.random(50)
        b = generator.random(50)
        found = difference(estimates.mean(a), estimates.mean(b))
        theirs = ttest_1samp(b - a, 0)
        assert found.p == pytest.approx(theirs.pvalue) and found.difference == pytest.approx(
            (b - a).mean()
        )
        assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))

    def test_pairing_sees_what_two_intervals_do_not(self):
        generator = np.random.default_rng(0)
        a = generator.integers(0, 2, size=2000)
        # B solves what A solves and a little more.
        b = np.where((a == 0) & (generator.random(2000) < 0.03), 1, a)
        found = difference(estimates.mean(a), estimates.mean(b))
        assert found.low is not None and found.low > 0 and found.p is not None and found.p < 1e-4
        assert wilson(int(a.sum()), 2000).high > wilson(int(b.sum()), 2000).low

    def test_equal_models_do_not_differ_and_that_is_no_certainty(self):
        hits = np.tile([0.0, 1.0], 20)
        for clusters in (None, np.arange(40) // 2):
            one = estimates.mean(hits, clusters)
            found = difference(one, one)
            assert (found.difference, found.p) == (0, 1)
            assert found.low is not None and -0.2 < found.low < 0 < (found.high or 0) < 0.2
        low, high = disagreement_interval(hits, hits)
        assert -0.1 < low < 0 < high < 0.1

    @pytest.mark.parametrize("tasks", [1, 2, 3])
    def test_a_model_that_gets_everything_right_differs_from_one_that_gets_nothing(self, tasks):
        wrong = estimates.mean(np.zeros(40))
        right = estimates.mean(np.ones(40))
        alone = difference(wrong, right)
        found = average_difference([(name, wrong, right) for name in range(tasks)])
        assert found.difference == 1 and found.se > 0
        assert found.p is not None and alone.p is not None and found.p <= alone.p < 1e-9
        few_shot = crossed_difference([wrong] * 3, [right] * 3)
        assert few_shot.p is not None and few_shot.p < 1e-9 and few_shot.se > 0

    def test_tasks_that_changed_against_each_other_are_no_difference_but_a_change(self):
        wrong = estimates.mean(np.zeros(40))
        right = estimates.mean(np.ones(40))
        found = average_difference([("a", wrong, right), ("b", right, wrong)])
        assert (found.difference, found.p) == (0, 1) and found.se > 0
        same = average_difference([("a", wrong, wrong), ("b", right, right)])
        assert (same.difference, same.p, same.se) == (0, 1, 0)

    def test_other_images_are_refused(self):
        with pytest.raises(ValueError, match="the same images"):
            difference(estimates.mean([0, 1]), estimates.mean([0, 1, 1]))


class TestCrossed:
    """Both the images and the shots could have been others."""

    @staticmethod
    def drawn(generator: np.random.Generator, seeds: int, n: int, luck: float) -> list[Estimate]:
        ease = generator.normal(size=n)
        shots = luck * generator.normal(size=(seeds, 1))
        return [estimates.mean(row) for row in ease + shots + generator.normal(size=(seeds, n)) > 0]

    @pytest.mark.parametrize(("n", "luck"), [(100, 0.3), (3000, 0.3), (100, 0.02)])
    def test_three_draws_hold_the_mean_over_all_draws(self, n, luck):
        found = [
            (crossed_interval(self.drawn(generator, 3, n, luck)), 0.5) for generator in worlds(200)
        ]
        assert holds(found) > 0.91

    def test_three_seeds_of_equal_models_are_rarely_told_apart(self):
        alarms = []
        for generator in worlds(200):
            p = crossed_difference(
                self.drawn(generator, 3, 3000, 0.2), self.drawn(generator, 3, 3000, 0.2)
            ).p
            alarms.append(p is not None and p < 0.05)
        assert np.mean(alarms) < 0.09

    def test_draws_without_luck_are_the_images_alone(self):
        one = estimates.mean(np.tile([0.0, 1.0, 1.0], 40))
        value, variance, df = crossed([one] * 3)
        assert (value, variance, df) == pytest.approx((one.value, one.variance, one.df))

    def test_two_draws_are_too_few(self):
        of = self.drawn(np.random.default_rng(0), 2, 50, 0.3)
        assert crossed_interval(of) is None and crossed_difference(of, of[::-1]).p is None


class TestSeveralTests:
    def test_holm_by_hand(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    @given(st.lists(st.floats(0, 1), max_size=20))
    def test_holm_lies_between_nothing_and_bonferroni_and_keeps_the_order(self, values):
        corrected = holm(values)
        for p, q in zip(values, corrected, strict=True):
            assert p <= q <= min(1.0, len(values) * p) + 1e-12
        order = np.argsort(values, kind="stable")
        assert np.all(np.diff(np.array(corrected)[order]) >= 0)
