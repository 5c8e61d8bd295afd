"""Every metric with the part of each image: the value is the metric's, the variance that of drawing
other images."""

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import f1_score

from open_diht.eval import estimates
from open_diht.eval.statistics import Estimate, average_difference, crossed_interval, difference

Draw = Callable[[np.random.Generator], Estimate]


def clustered(generator: np.random.Generator) -> Estimate:
    sizes = generator.integers(1, 6, size=60)
    hits = generator.random(int(sizes.sum())) < np.repeat(generator.beta(1, 1, size=60), sizes)
    return estimates.mean(hits, np.repeat(np.arange(60), sizes))


def by_class(generator: np.random.Generator) -> Estimate:
    labels = np.repeat(np.arange(6), [1, 1, 1, 10, 20, 40])
    return estimates.mean_per_class(generator.random(len(labels)) < 0.7, labels)


def by_f1(generator: np.random.Generator) -> Estimate:
    labels = np.repeat(np.arange(6), [4, 5, 10, 20, 40, 60])
    said = np.where(
        generator.random(len(labels)) < 0.7, labels, generator.integers(6, size=len(labels))
    )
    return estimates.macro_f1(said, labels)


def by_group(generator: np.random.Generator) -> Estimate:
    groups = np.repeat(np.arange(4), 50)
    return estimates.worst_group(
        generator.random(200) < np.array([0.8, 0.4, 0.9, 0.95])[groups], groups
    )


def area(generator: np.random.Generator) -> Estimate:
    labels = np.repeat([0, 1], [60, 30])
    return estimates.roc_auc(generator.normal(labels, 1), labels)


def tagged(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = generator.random((150, 4)) < 0.3
    return generator.normal(1.5 * labels, 1), labels


@pytest.mark.parametrize(
    "draw",
    [
        clustered, by_class, by_f1, by_group, area,
        lambda generator: estimates.mean_average_precision(*tagged(generator)),
        lambda generator: estimates.mean_average_precision_11point(*tagged(generator)),
    ],
)  # fmt: skip
def test_the_parts_add_up_to_the_variance_over_other_images(draw):
    found = [draw(np.random.default_rng(seed)) for seed in range(80)]
    spread = np.std([one.value for one in found], ddof=1)
    assert np.sqrt(np.mean([one.variance for one in found])) == pytest.approx(spread, rel=0.25)
    for one in found[:5]:
        assert one.parts.sum() == pytest.approx(0, abs=1e-9) and len(one.parts) == len(one.units)


def test_macro_f1_is_scikit_learn_s_over_the_classes_that_occur():
    for seed in range(20):
        generator = np.random.default_rng(seed)
        labels = generator.integers(9, size=40)
        said = generator.integers(12, size=40)
        expected = f1_score(
            labels, said, average="macro", labels=np.unique(labels), zero_division=0
        )
        assert estimates.macro_f1(said, labels).value == pytest.approx(expected)
    assert (
        estimates.macro_f1([7, 7, 3], [7, 7, 3]).value == 1
        and estimates.macro_f1([9], [3]).value == 0
    )


def test_the_worst_group_is_bounded_by_each_group_from_above_and_by_its_own_from_below():
    many = np.repeat([0, 1], 1000)
    hits = np.concatenate([np.arange(1000) < 500, np.arange(1000) < 900])
    apart = estimates.worst_group(hits, many)
    alone = estimates.mean(hits[:1000])
    found = apart.interval()
    own = alone.interval()
    assert found is not None and own is not None
    assert found.low == own.low and own.high < found.high < own.high + 0.02
    # Of four images nobody can say that they are the worst: the others bound it.
    tiny = estimates.worst_group(
        np.concatenate([hits, [0, 0, 0, 0]]), np.concatenate([many, [2] * 4])
    ).interval()
    assert tiny is not None and tiny.low == 0 and 0.5 < tiny.high < 0.55
    one = estimates.worst_group(np.concatenate([hits, [1]]), np.concatenate([many, [2]])).interval()
    assert one is not None and one.low == 0 and one.high > 0.5


def test_images_of_one_burst_are_one_observation_of_a_group_too():
    hits = np.repeat([1, 0, 1, 0], 50)
    groups = np.repeat([0, 1], 100)
    bursts = np.repeat(np.arange(20), 10)
    single, together = (estimates.worst_group(hits, groups, of).interval() for of in (None, bursts))
    assert single is not None and together is not None
    assert together.high - together.low > 2 * (single.high - single.low)
    assert (
        estimates.macro_f1(hits, groups, bursts).variance
        > 5 * estimates.macro_f1(hits, groups).variance
    )


def test_leaving_out_an_image_in_closed_form_is_leaving_it_out():
    scores, labels = tagged(np.random.default_rng(3))
    scores, labels = np.round(scores[:40], 1), labels[:40]  # with ties
    parts = estimates.mean_average_precision(scores, labels).parts
    fewer = [[np.delete(one, place, axis=0) for one in (scores, labels)] for place in range(40)]
    without = np.array([estimates.mean_average_precision(*both).value for both in fewer])
    assert parts == pytest.approx((np.mean(without) - without) * np.sqrt(39 / 40))


def test_perfect_classes_are_not_certain():
    found = estimates.mean_per_class(np.ones(10), np.repeat(np.arange(5), 2)).interval()
    assert found is not None and found.low < 0.8 and found.high == 1


def classes_hit(*of: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Hits and labels of classes of so many right of so many items."""
    hits = np.concatenate([np.arange(size) < right for right, size in of])
    return hits.astype(float), np.repeat(np.arange(len(of)), [size for _, size in of])


def test_a_small_perfect_class_next_to_a_large_one_is_as_unsure_as_it_is_alone():
    hits, labels = classes_hit((700, 1000), (5, 5))
    alone = estimates.mean(np.ones(5)).interval()
    assert alone is not None
    f1 = estimates.macro_f1(np.where(hits > 0, labels, 2), labels)
    for found in (estimates.mean_per_class(hits, labels), f1):
        ends = found.interval()
        assert ends is not None and found.value - ends.low > (1 - alone.low) / 2 - 1e-9


@pytest.mark.parametrize(
    ("sizes", "rates"),
    [
        ([1000, 5], [0.7, 0.95]),
        ([1000, 1000, 3, 3], [0.7, 0.7, 0.95, 0.95]),
        ([200] * 10 + [2] * 10, [0.99, 0.98]),
    ],
)
def test_intervals_of_means_over_classes_of_unequal_sizes_hold(sizes, rates):
    truth = np.repeat(rates, len(sizes) // len(rates))
    held = []
    for seed in range(150):
        right = np.random.default_rng(seed).binomial(sizes, truth)
        ends = estimates.mean_per_class(
            *classes_hit(*zip(right.tolist(), sizes, strict=True))
        ).interval()
        held.append(ends is not None and ends.low <= truth.mean() <= ends.high)
    assert np.mean(held) > 0.93


def test_a_difference_knows_that_a_small_class_without_a_change_says_little():
    hits, labels = classes_hit((700, 1000), (5, 5))
    better = hits.copy()
    better[np.flatnonzero(hits[:1000] == 0)[:40]] = 1
    found = difference(
        estimates.mean_per_class(hits, labels), estimates.mean_per_class(better, labels)
    )
    alone = difference(estimates.mean(np.ones(5)), estimates.mean(np.ones(5)))
    assert found.difference == pytest.approx(0.02) and alone.reach is not None
    assert (
        found.reach is not None
        and found.reach > alone.reach / 2
        and found.p is not None
        and found.p > 0.05
    )
    # Over tasks it is as unsure, and over draws of shots.
    averaged = average_difference([("set", *2 * (estimates.mean_per_class(hits, labels),))])
    assert (
        averaged.reach is not None
        and averaged.reach >= alone.reach / 2
        and averaged.detectable is None
    )
    drawn = [estimates.mean_per_class(one, labels) for one in (hits, better, hits)]
    ends = crossed_interval(drawn)
    own = drawn[0].interval()
    assert ends is not None and own is not None and ends.low <= own.low + 0.02


def test_classes_of_one_size_are_one_stratum_and_a_lone_item_is_one_item():
    even = estimates.mean_per_class(*classes_hit((3, 5), (5, 5)))
    assert type(even) is Estimate
    ends = estimates.mean_per_class(*classes_hit((700, 1000), (1, 1))).interval()
    assert ends is not None and ends.low < 0.4 and ends.high < 0.87
    assert estimates.mean_per_class([1.0], [0]).interval() is None
    assert estimates.mean_per_class(*classes_hit((1, 1), (2, 3)), np.zeros(4)).interval() is None


@pytest.mark.parametrize("labels", [[1, 0, 0, 0], [0, 1, 1, 1]])
def test_an_auc_of_one_item_of_a_class_is_too_little_to_tell(labels):
    assert estimates.roc_auc([0.4, 0.3, 0.2, 0.1], labels).interval() is None


def test_an_auc_of_one_class_is_refused_by_its_count():
    with pytest.raises(ValueError, match="there are 0 of class 1 and 3 of class 0"):
        estimates.roc_auc([0.1, 0.2, 0.3], [0, 0, 0])


def test_a_class_with_one_positive_leaves_no_interval():
    scores, labels = tagged(np.random.default_rng(0))
    labels[:, 2] = np.arange(150) == 3
    for estimate in (estimates.mean_average_precision, estimates.mean_average_precision_11point):
        assert estimate(scores, labels).interval() is None


@pytest.mark.parametrize("values", [[], [[0.0, 1.0]], [0.5, float("nan")]])
def test_what_is_no_list_of_numbers_is_refused(values):
    with pytest.raises(ValueError):
        estimates.mean(values)
    with pytest.raises(ValueError, match="clusters have shape"):
        estimates.mean([0.0, 1.0], clusters=[0, 0, 1])
