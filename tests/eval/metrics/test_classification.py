"""Classification metrics against scikit-learn and CLIP_benchmark, and in the cases they leave open."""

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
    average_precision_11point,
    label_ranks,
    logits_in_tiles,
    mean_per_class,
)

SEEDS = st.integers(0, 10_000)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(6, 40), st.integers(6, 20))
def test_top_1_and_5_equal_those_of_clip_benchmark_and_sklearn(seed, n, classes):
    oracle = needed("clip_benchmark.metrics.zeroshot_classification")
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(size=(n, classes)).astype(np.float32))
    labels = generator.integers(classes, size=n)
    ranks, predicted = label_ranks(logits, labels)
    top1, top5 = oracle.accuracy(logits, torch.from_numpy(labels), topk=(1, 5))
    assert (ranks == 0).mean() == pytest.approx(top1) and (ranks < 5).mean() == pytest.approx(top5)
    assert (ranks < 5).mean() == pytest.approx(
        sklearn.top_k_accuracy_score(labels, logits.numpy(), k=5, labels=np.arange(classes))
    )
    assert predicted.tolist() == logits.argmax(dim=1).tolist()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(4, 60), st.integers(2, 7))
def test_mean_per_class_equals_balanced_accuracy(seed, n, classes):
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(classes, size=n), generator.integers(classes, size=n)
    with np.errstate(all="ignore"):
        expected = sklearn.recall_score(labels, predicted, average="macro", labels=np.unique(labels), zero_division=0)
    assert mean_per_class((labels == predicted).astype(float), labels) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(4, 60), st.booleans())
def test_roc_auc_equals_sklearns_also_with_equal_scores(seed, n, coarse):
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=n)
    labels[:2] = 0, 1
    scores = generator.normal(size=n)
    scores = np.round(scores) if coarse else scores
    assert estimates.roc_auc(scores, labels).value == pytest.approx(sklearn.roc_auc_score(labels, scores))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(3, 40), st.integers(1, 5))
def test_average_precision_equals_that_of_clip_benchmark_and_sklearn(seed, n, classes):
    oracle = needed("clip_benchmark.metrics.zeroshot_classification")
    generator = np.random.default_rng(seed)
    scores, labels = generator.normal(size=(n, classes)), generator.integers(2, size=(n, classes)).astype(bool)
    labels[0] = True
    ours = np.array(
        [estimates.mean_average_precision(scores[:, [one]], labels[:, [one]]).value for one in range(classes)]
    )
    theirs = oracle.average_precision_per_class(torch.from_numpy(scores), torch.from_numpy(labels).int())
    assert ours == pytest.approx(theirs.numpy(), abs=1e-6)
    assert ours == pytest.approx(sklearn.average_precision_score(labels, scores, average=None), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(3, 40))
def test_11_point_average_precision_equals_its_definition_over_sklearns_curve(seed, n):
    generator = np.random.default_rng(seed)
    scores, labels = generator.normal(size=(n, 1)), generator.integers(2, size=(n, 1)).astype(bool)
    labels[0] = True
    precision, recall, _ = sklearn.precision_recall_curve(labels[:, 0], scores[:, 0])
    precision, recall = precision[:-1], recall[:-1]  # sklearn appends (1, 0), which no threshold reaches
    levels = [precision[recall >= level / 10 - 1e-12].max() for level in range(11)]
    assert average_precision_11point(scores, labels) == pytest.approx([np.mean(levels)])


def test_equal_logits_go_to_the_lowest_class_index_so_a_collapsed_model_scores_chance():
    labels = np.arange(40) % 4
    ranks, predicted = label_ranks(torch.zeros(40, 4), labels)
    assert set(predicted.tolist()) == {0}
    assert (ranks == 0).mean() == pytest.approx(1 / 4)
    assert mean_per_class((ranks == 0).astype(float), labels) == pytest.approx(1 / 4)


@pytest.mark.parametrize("order", [1, -1])
def test_equal_scores_gain_nothing_in_average_precision(order):
    labels = np.array([1, 0, 0, 0])[::order].reshape(4, 1).astype(bool)
    assert estimates.mean_average_precision(np.zeros((4, 1)), labels).value == pytest.approx(1 / 4)


@pytest.mark.parametrize("tile_bytes", [1, 64, 1 << 20])
def test_logits_come_in_tiles_and_are_scale_times_cosine(tile_bytes):
    generator = np.random.default_rng(0)
    features, classifier = generator.normal(size=(11, 5)), generator.normal(size=(5, 3))
    blocks = list(logits_in_tiles(ArrayRows(features), classifier, 100.0, tiles(11, 3, tile_bytes)))
    assert [index for rows, _ in blocks for index in range(rows.start, rows.stop)] == list(range(11))
    found = np.concatenate([part.numpy() for _, part in blocks])
    assert found == pytest.approx(100 * features @ classifier, rel=1e-4, abs=1e-4)
    (whole,) = logits_in_tiles(ArrayRows(features), classifier, 100.0)
    assert whole[1].numpy() == pytest.approx(found, rel=1e-5, abs=1e-5)
