"""Classification metrics against scikit-learn and CLIP_benchmark, and in the cases they leave
open."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.eval.conftest import needed

sklearn = needed("sklearn.metrics")

from open_diht.eval import estimates  # noqa: E402
from open_diht.eval.metrics import ArrayRows, tiles  # noqa: E402
from open_diht.eval.metrics.classification import (  # noqa: E402
    label_ranks,
    logits_in_tiles,
    mean_per_class,
)

SEEDS = st.integers(0, 10_000)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(6, 40), st.integers(6, 20))
def test_top_1_and_5_equal_those_of_sklearn(seed, n, classes):
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(size=(n, classes)).astype(np.float32))
    labels = generator.integers(classes, size=n)
    ranks, predicted = label_ranks(logits, labels)
    for k in (1, 5):
        theirs = sklearn.top_k_accuracy_score(
            labels, logits.numpy(), k=k, labels=np.arange(classes)
        )
        assert (ranks < k).mean() == pytest.approx(theirs)
    assert predicted.tolist() == logits.argmax(dim=1).tolist()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(4, 60), st.integers(2, 7))
def test_mean_per_class_equals_balanced_accuracy(seed, n, classes):
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=n)
    predicted = generator.integers(classes, size=n)
    with np.errstate(all="ignore"):
        expected = sklearn.recall_score(
            labels, predicted, average="macro", labels=np.unique(labels), zero_division=0
        )
    hits = (labels == predicted).astype(float)
    assert mean_per_class(hits, labels) == pytest.approx(expected)
    assert estimates.mean_per_class(hits, labels).value == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(4, 60), st.booleans())
def test_roc_auc_equals_sklearns_also_with_equal_scores(seed, n, coarse):
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=n)
    labels[:2] = 0, 1
    scores = generator.normal(size=n)
    scores = np.round(scores) if coarse else scores
    assert estimates.roc_auc(scores, labels).value == pytest.approx(
        sklearn.roc_auc_score(labels, scores)
    )


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(3, 40), st.integers(1, 5))
def test_average_precision_equals_that_of_sklearn(seed, n, classes):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(n, classes))
    labels = generator.integers(2, size=(n, classes)).astype(bool)
    labels[0] = True
    ours = np.array(
        [
            estimates.mean_average_precision(scores[:, [one]], labels[:, [one]]).value
            for one in range(classes)
        ]
    )

    assert ours == pytest.approx(
        sklearn.average_precision_score(labels, scores, average=None), abs=1e-9
    )


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(3, 40))
def test_11_point_average_precision_equals_its_definition_over_sklearns_curve(seed, n):
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(n, 1))
    labels = generator.integers(2, size=(n, 1)).astype(bool)
    labels[0] = True
    precision, recall, _ = sklearn.precision_recall_curve(labels[:, 0], scores[:, 0])
    # sklearn appends (1, 0), which no threshold reaches.
    precision, recall = (
        precision[:-1],
        recall[:-1],
    )
    levels = [precision[recall >= level / 10 - 1e-12].max() for level in range(11)]
    assert estimates.mean_average_precision_11point(scores, labels).value == pytest.approx(
        np.mean(levels)
    )


@pytest.mark.parametrize("order", [1, -1])
def test_equal_scores_gain_nothing_in_average_precision(order):
    labels = np.array([1, 0, 0, 0])[::order].reshape(4, 1).astype(bool)
    assert estimates.mean_average_precision(np.zeros((4, 1)), labels).value == pytest.approx(1 / 4)


@pytest.mark.parametrize("tile_bytes", [1, 64, 1 << 20])
def test_logits_come_in_tiles_and_are_scale_times_cosine(tile_bytes):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(11, 5))
    classifier = generator.normal(size=(5, 3))
    blocks = list(logits_in_tiles(ArrayRows(features), classifier, 100.0, tiles(11, 3, tile_bytes)))
    assert [index for rows, _ in blocks for index in range(rows.start, rows.stop)] == list(
        range(11)
    )
    found = np.concatenate([part.numpy() for _, part in blocks])
    assert found == pytest.approx(100 * features @ classifier, rel=1e-4, abs=1e-4)
    (whole,) = logits_in_tiles(ArrayRows(features), classifier, 100.0)
    assert whole[1].numpy() == pytest.approx(found, rel=1e-5, abs=1e-5)
