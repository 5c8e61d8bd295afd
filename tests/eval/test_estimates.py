"""Every metric with the part of each image: the value is the metric's, the variance that of drawing other images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from eval import estimates
from eval.metrics.classification import average_precision, average_precision_11point, mean_per_class
from eval.statistics import Estimate

Draw = Callable[[np.random.Generator], Estimate]


def clustered(generator: np.random.Generator) -> Estimate:
    sizes = generator.integers(1, 6, size=60)
    hits = generator.random(int(sizes.sum())) < np.repeat(generator.beta(1, 1, size=60), sizes)
    return estimates.mean(hits, np.repeat(np.arange(60), sizes))


def by_class(generator: np.random.Generator) -> Estimate:
    labels = np.repeat(np.arange(6), [1, 1, 1, 10, 20, 40])
    return estimates.mean_per_class(generator.random(len(labels)) < 0.7, labels)


def area(generator: np.random.Generator) -> Estimate:
    labels = np.repeat([0, 1], [60, 30])
    return estimates.roc_auc(generator.normal(labels, 1), labels)


def tagged(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = generator.random((150, 4)) < 0.3
    return generator.normal(1.5 * labels, 1), labels


@pytest.mark.parametrize(
    "draw",
    [
        clustered,
        by_class,
        area,
        lambda generator: estimates.mean_average_precision(*tagged(generator)),
        lambda generator: estimates.mean_average_precision_11point(*tagged(generator)),
    ],
)
def test_the_parts_add_up_to_the_variance_over_other_images(draw: Draw) -> None:
    found = [draw(np.random.default_rng(seed)) for seed in range(150)]
    spread = np.std([one.value for one in found], ddof=1)
    assert np.sqrt(np.mean([one.variance for one in found])) == pytest.approx(spread, rel=0.25)
    for one in found[:5]:
        assert one.parts.sum() == pytest.approx(0, abs=1e-9) and len(one.parts) == len(one.units)


def test_values_are_those_of_the_metrics() -> None:
    generator = np.random.default_rng(0)
    scores, labels = tagged(generator)
    assert estimates.roc_auc(scores[:, 0], labels[:, 0]).value == pytest.approx(
        roc_auc_score(labels[:, 0], scores[:, 0])
    )
    tied = np.round(scores[:, 0])
    assert estimates.roc_auc(tied, labels[:, 0]).value == pytest.approx(roc_auc_score(labels[:, 0], tied))
    assert estimates.mean_average_precision(scores, labels).value == pytest.approx(
        np.mean([average_precision_score(labels[:, c], scores[:, c]) for c in range(4)])
    )
    eleven = estimates.mean_average_precision_11point(scores, labels)
    assert eleven.value == pytest.approx(average_precision_11point(scores, labels).mean())
    hits, of = generator.random(50) < 0.5, generator.integers(5, size=50)
    assert estimates.mean_per_class(hits, of).value == pytest.approx(mean_per_class(hits.astype(float), of))


def test_leaving_out_an_image_in_closed_form_is_leaving_it_out() -> None:
    scores, labels = tagged(np.random.default_rng(3))
    scores, labels = np.round(scores[:40], 1), labels[:40]  # with ties
    parts = estimates.mean_average_precision(scores, labels).parts
    without = [average_precision(*(np.delete(one, i, axis=0) for one in (scores, labels))).mean() for i in range(40)]
    assert parts == pytest.approx((np.mean(without) - without) * np.sqrt(39 / 40))


def test_perfect_classes_are_not_certain() -> None:
    found = estimates.mean_per_class(np.ones(10), np.repeat(np.arange(5), 2)).interval()
    assert found is not None and found.low < 0.8 and found.high == 1


@pytest.mark.parametrize("labels", [[1, 0, 0, 0], [0, 1, 1, 1]])
def test_an_auc_of_one_item_of_a_class_is_too_little_to_tell(labels: list[int]) -> None:
    assert estimates.roc_auc([0.4, 0.3, 0.2, 0.1], labels).interval() is None


def test_an_auc_of_one_class_is_refused_by_its_count() -> None:
    with pytest.raises(ValueError, match="there are 0 of class 1 and 3 of class 0"):
        estimates.roc_auc([0.1, 0.2, 0.3], [0, 0, 0])


def test_a_class_with_one_positive_leaves_no_interval() -> None:
    scores, labels = tagged(np.random.default_rng(0))
    labels[:, 2] = np.arange(150) == 3
    for estimate in (estimates.mean_average_precision, estimates.mean_average_precision_11point):
        assert estimate(scores, labels).interval() is None


@pytest.mark.parametrize("values", [[], [[0.0, 1.0]], [0.5, float("nan")]])
def test_what_is_no_list_of_numbers_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError):
        estimates.mean(values)
    with pytest.raises(ValueError, match="clusters have shape"):
        estimates.mean([0.0, 1.0], clusters=[0, 0, 1])
