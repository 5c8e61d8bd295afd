"""Captions chosen, pairs kept apart: ties are wrong, and random scores give the chance that is
stated."""

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from open_diht.eval.metrics.selection import (
    CHANCE_OF_PAIR,
    alike,
    all_ahead,
    chance,
    jaccard,
    jaccard_chance,
    pair_scores,
)


@pytest.mark.parametrize(
    ("scores", "right", "ahead"),
    [
        ([0.5, 0.4], 1, True), ([0.4, 0.4], 1, False), ([0.4, 0.5], 1, False),
        ([0.5, 0.6, 0.4], 2, True), ([0.5, 0.4, 0.4], 2, False),
    ],
)  # fmt: skip
def test_all_right_captions_have_to_be_ahead_of_all_wrong_ones(scores, right, ahead):
    assert all_ahead(np.array(scores), right) is ahead


@pytest.mark.parametrize(("captions", "right"), [(2, 1), (5, 1), (3, 2)])
def test_chance_is_what_random_scores_give(captions, right):
    scores = np.random.default_rng(0).random((4000, captions))
    assert np.mean([all_ahead(row, right) for row in scores]) == pytest.approx(
        chance(captions, right), abs=0.03
    )


@pytest.mark.parametrize(
    ("scores", "right", "index"),
    [
        ([0.9, 0.8, 0.1, 0.2], 2, 1.0), ([0.9, 0.1, 0.8, 0.2], 2, 1 / 3),
        ([0.1, 0.2, 0.8, 0.9], 2, 0.0), ([0.9, 0.5, 0.4, 0.8, 0.1], 3, 2 / 4),
        ([0.9, 0.5, 0.5, 0.1], 2, 1 / 3), ([0.5, 0.5, 0.5, 0.5], 2, 0.0),
    ],
)  # fmt: skip
def test_the_jaccard_index_of_the_nearest_ties_being_wrong(scores, right, index):
    assert jaccard(np.array(scores), right) == pytest.approx(index)


@pytest.mark.parametrize(("images", "right"), [(5, 2), (6, 3), (10, 4), (12, 6), (3, 2)])
def test_jaccard_is_scikit_learn_s_and_its_chance_that_of_random_scores(images, right):
    truth = np.arange(images) < right
    found = []
    for scores in np.random.default_rng(0).random((3000, images)):
        found.append(jaccard(scores, right))
        if len(found) <= 50:
            chosen = np.isin(np.arange(images), np.argsort(scores)[-right:])
            assert found[-1] == pytest.approx(jaccard_score(truth, chosen))
    assert np.mean(found) == pytest.approx(jaccard_chance(images, right), abs=0.02)


def test_captions_alike_without_the_image():
    near = np.array([[1.0, 0.0], [0.8, 0.6], [-0.6, 0.8]])
    assert alike(near, 2) and not alike(near[[0, 2, 1]], 2)
    assert not alike(np.ones((3, 2)), 2)


def test_a_tie_within_a_pair_is_wrong():
    scores = np.array([[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 0], [1, 0]], [[1, 0.9], [0.95, 2]]])
    found = {name: values.tolist() for name, values in pair_scores(scores).items()}
    assert found == {
        name: [1.0, 0.0, 0.0, 1.0] for name in ("text_score", "image_score", "group_score")
    }


def test_text_and_image_score_ask_different_things():
    found = pair_scores(np.array([[[3.0, 2.0], [5.0, 6.0]]]))
    assert (found["text_score"][0], found["image_score"][0], found["group_score"][0]) == (
        1.0,
        0.0,
        0.0,
    )


def test_chance_of_pairs_is_what_random_scores_give():
    found = pair_scores(np.random.default_rng(0).random((6000, 2, 2)))
    for name, expected in CHANCE_OF_PAIR.items():
        assert found[name].mean() == pytest.approx(expected, abs=0.025)
