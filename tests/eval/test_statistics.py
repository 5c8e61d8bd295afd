"""Intervals that cover, tests that do not cry wolf: reference values, scipy and scikit-learn as oracles, coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata
from sklearn.metrics import roc_auc_score

from common.statistics import wilson
from eval.statistics import (
    average_draws,
    bootstrap,
    bootstrap_draws,
    bootstrap_metric,
    bootstrap_p,
    compare_metric,
    compare_paired,
    holm,
    interval,
    mcnemar,
    metric_draws,
    resamples,
)


def auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Mann-Whitney form of ROC-AUC: a tenth of scikit-learn's time, which a thousand resamples feel."""
    positive = labels == 1
    n = int(positive.sum())
    rank_sum = rankdata(scores)[positive].sum()
    return float((rank_sum - n * (n + 1) / 2) / (n * (len(labels) - n)))


class TestBootstrap:
    def test_agrees_with_wilson_on_independent_hits(self) -> None:
        hits = np.repeat([1, 0], [1400, 600])
        assert bootstrap(hits, draws=4000) == pytest.approx(wilson(1400, 2000), abs=0.003)

    def test_counting_kinds_is_drawing_clusters(self) -> None:
        # The shortcut (one multinomial over kinds of clusters) against the plain way, on clusters of unequal size.
        generator = np.random.default_rng(1)
        clusters = np.repeat(np.arange(60), generator.integers(1, 6, size=60))
        values = generator.integers(0, 2, size=len(clusters)).astype(float)
        fast = bootstrap_draws(values, clusters, draws=4000)
        plain = metric_draws(lambda index: values[index].mean(), len(values), clusters, draws=4000, seed=5)
        assert fast.mean() == pytest.approx(plain.mean(), abs=0.005)
        assert fast.std() == pytest.approx(plain.std(), rel=0.06)
        assert interval(fast) == pytest.approx(interval(plain), abs=0.012)

    def test_captions_of_one_image_do_not_count_as_five(self) -> None:
        images = np.repeat(np.arange(200), 5)
        hits = np.repeat(np.random.default_rng(0).integers(0, 2, size=200), 5)  # five captions, one fate
        clustered, naive = bootstrap(hits, images), bootstrap(hits)
        per_image = bootstrap(hits[::5])
        assert clustered.high - clustered.low == pytest.approx(per_image.high - per_image.low, rel=0.1)
        assert naive.high - naive.low < 0.6 * (clustered.high - clustered.low)

    def test_covers_where_the_naive_interval_does_not(self) -> None:
        generator = np.random.default_rng(3)
        truth, images, captions, rounds = 0.6, 80, 5, 200
        clusters = np.repeat(np.arange(images), captions)
        inside = naive = 0
        for seed in range(rounds):
            ease = generator.beta(1.2, 0.8, size=images)  # mean 0.6: some pictures are easy for all their captions
            hits = (generator.random((images, captions)) < ease[:, None]).ravel()
            low, high = bootstrap(hits, clusters, draws=400, seed=seed)
            inside += low <= truth <= high
            low, high = bootstrap(hits, draws=400, seed=seed)
            naive += low <= truth <= high
        assert inside / rounds > 0.90
        assert naive / rounds < 0.85

    def test_all_hits_are_not_certainty(self) -> None:
        assert bootstrap(np.ones(20)) == wilson(20, 20)
        assert bootstrap(np.zeros(20), np.repeat(np.arange(4), 5)) == wilson(0, 4)

    def test_is_a_function_of_the_seed(self) -> None:
        values = np.random.default_rng(0).random(50)
        assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
    def test_stays_between_the_values(self, values: list[float]) -> None:
        low, high = bootstrap(values, draws=50)
        assert -1e-9 <= low <= high <= 1 + 1e-9

    @pytest.mark.parametrize("values", [[], [[0.0, 1.0]], [0.5, float("nan")]])
    def test_refuses_what_is_no_list_of_numbers(self, values: list[float]) -> None:
        with pytest.raises(ValueError):
            bootstrap(values)

    def test_refuses_clusters_of_other_items(self) -> None:
        with pytest.raises(ValueError, match="clusters have shape"):
            bootstrap([0.0, 1.0], clusters=[0, 0, 1])


class TestMetrics:
    def test_auc_covers(self) -> None:
        # Two normal classes one deviation apart: AUC = Phi(1 / sqrt 2).
        generator, truth, inside = np.random.default_rng(0), 0.7602, 0
        labels = np.repeat([0, 1], 60)
        for seed in range(60):
            scores = generator.normal(labels, 1)
            assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))

            def metric(index: NDArray[np.int64], scores: NDArray[np.float64] = scores) -> float:
                return auc(labels[index], scores[index])

            low, high = bootstrap_metric(metric, 120, draws=100, seed=seed)
            inside += low <= truth <= high
        assert inside >= 52

    def test_a_resample_keeps_clusters_whole(self) -> None:
        clusters = np.array(["b", "a", "b", "c", "a", "b"])
        stream = resamples(6, clusters, seed=0)
        for _ in range(20):
            index = next(stream)
            times = np.bincount(index, minlength=6)
            assert times[0] == times[2] == times[5] and times[1] == times[4]
            assert times[0] + times[1] + times[3] == 3  # as many clusters as there are

    def test_undefined_resamples_are_drawn_again(self) -> None:
        labels = np.array([0, 0, 0, 1, 1])

        def both_classes(index: NDArray[np.int64]) -> float:
            return float(labels[index].mean()) if len(set(labels[index])) == 2 else float("nan")

        drawn = metric_draws(both_classes, 5, draws=300)
        assert len(drawn) == 300 and drawn.min() > 0 and drawn.max() < 1

    def test_a_metric_that_is_never_defined_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="undefined in 20 of 20 resamples"):
            bootstrap_metric(lambda index: float("nan"), 4, draws=10)


class TestAverage:
    def test_independent_tasks_shrink_the_interval_by_the_root(self) -> None:
        task = bootstrap_draws(np.repeat([0.0, 1.0], 200), draws=4000)
        average = average_draws([task] * 4)  # one seed in every task: still independent
        assert average.std() == pytest.approx(task.std() / 2, rel=0.06)
        assert average.mean() == pytest.approx(0.5, abs=0.005)

    def test_every_task_weighs_the_same(self) -> None:
        small, large = bootstrap_draws([1.0] * 3), bootstrap_draws([0.0] * 3000)
        assert np.allclose(average_draws([small, large]), 0.5)

    def test_refuses_nothing_and_unequal_draws(self) -> None:
        with pytest.raises(ValueError, match="no tasks"):
            average_draws([])
        with pytest.raises(ValueError, match=r"\[3, 4\]"):
            average_draws([np.zeros(3), np.zeros(4)])


class TestPaired:
    @given(st.integers(0, 300), st.integers(0, 300))
    def test_mcnemar_is_the_binomial_test_of_the_disagreements(self, only_a: int, only_b: int) -> None:
        a = np.repeat([1, 0, 1, 0], [only_a, only_b, 7, 5])
        b = np.repeat([0, 1, 1, 0], [only_a, only_b, 7, 5])
        expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)

    def test_mcnemar_stays_exact_far_out_and_is_symmetric(self) -> None:
        a, b = np.zeros(900), np.ones(900)
        assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(2.0**-899, rel=1e-12)

    def test_pairing_sees_what_two_intervals_do_not(self) -> None:
        generator = np.random.default_rng(0)
        a = generator.integers(0, 2, size=2000)
        b = np.where((a == 0) & (generator.random(2000) < 0.03), 1, a)  # B solves what A solves and a little more
        compared = compare_paired(a, b)
        assert compared.low > 0 and compared.p < 1e-4 and compared.test == "mcnemar"
        assert compared.difference == pytest.approx(b.mean() - a.mean())
        assert wilson(int(a.sum()), 2000).high > wilson(int(b.sum()), 2000).low

    def test_clustered_hits_take_the_bootstrap(self) -> None:
        hits = np.tile([0, 1], 50)
        assert compare_paired(hits, 1 - hits, clusters=np.arange(100) // 5).test == "paired bootstrap"
        assert compare_paired(hits, 1 - hits, clusters=np.arange(100)).test == "mcnemar"
        assert compare_paired(hits / 3, hits).test == "paired bootstrap"

    def test_false_alarms_stay_near_the_level(self) -> None:
        generator, alarms = np.random.default_rng(7), 0
        clusters = np.repeat(np.arange(60), 5)
        for seed in range(200):
            ease = generator.beta(1, 1, size=(60, 2))  # same distribution, different pictures are easy for A and for B
            a = generator.random((60, 5)) < ease[:, :1]
            b = generator.random((60, 5)) < ease[:, 1:]
            alarms += compare_paired(a.ravel(), b.ravel(), clusters, draws=500, seed=seed).p < 0.05
        assert alarms <= 20  # 5 % expected, 10 % allowed

    def test_equal_models_differ_by_nothing(self) -> None:
        hits = np.tile([0.0, 1.0], 20)
        for clusters in (None, np.arange(40) // 2):
            compared = compare_paired(hits, hits, clusters)
            assert (compared.difference, compared.low, compared.high, compared.p) == (0, 0, 0, 1)

    def test_metrics_are_compared_on_shared_resamples(self) -> None:
        generator = np.random.default_rng(0)
        labels = np.repeat([0, 1], 100)
        weak = generator.normal(labels, 1.0)
        strong = weak + 0.3 * labels
        compared = compare_metric(
            lambda index: auc(labels[index], weak[index]),
            lambda index: auc(labels[index], strong[index]),
            200,
            draws=300,
        )
        assert compared.low > 0 and compared.p == pytest.approx(2 / 301)
        assert compared.difference == pytest.approx(auc(labels, strong) - auc(labels, weak))

    def test_refuses_other_items(self) -> None:
        with pytest.raises(ValueError, match="A has 3, B has 4"):
            compare_paired(np.zeros(3), np.zeros(4))


class TestSeveralTests:
    def test_holm_by_hand(self) -> None:
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    @given(st.lists(st.floats(0, 1), max_size=20))
    def test_holm_lies_between_nothing_and_bonferroni_and_keeps_the_order(self, values: list[float]) -> None:
        corrected = holm(values)
        for p, q in zip(values, corrected, strict=True):
            assert p <= q <= min(1.0, len(values) * p) + 1e-12
        order = np.argsort(values, kind="stable")
        assert np.all(np.diff(np.array(corrected)[order]) >= 0)

    def test_bootstrap_p_is_never_zero(self) -> None:
        assert bootstrap_p(np.ones(99)) == pytest.approx(0.02)
        assert bootstrap_p(np.array([-1.0, 1.0] * 50)) == 1.0
