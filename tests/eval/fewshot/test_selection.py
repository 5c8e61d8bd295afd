"""Choices come from held-out shots and are cautious."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from open_diht.eval.fewshot.selection import FIXED, SUPPORT_CV, Support, most_cautious, select


def support(shots: int, classes: int = 3) -> Support:
    n = shots * classes
    return Support(
        # A feature is the sample's own number.
        features=torch.arange(n, dtype=torch.float32)[:, None],
        labels=torch.arange(classes).repeat_interleave(shots),
        places=np.tile(np.arange(shots), classes),
        classifier=torch.zeros(classes, 1),
        logit_scale=1.0,
    )


@pytest.mark.parametrize(("shots", "folds"), [(2, 2), (3, 3), (4, 4), (5, 4), (16, 4)])
def test_every_shot_is_held_out_once_and_never_trained_on_then(shots, folds):
    held: list[float] = []
    fits = 0

    def scores_of(part: Support, features: Tensor) -> list[Tensor]:
        nonlocal fits
        fits += 1
        trained = set(part.features.ravel().tolist())
        asked = features.ravel().tolist()
        assert not trained & set(asked) and len(trained) + len(asked) == 3 * shots
        held.extend(asked)
        return [torch.zeros(len(features), 3)] * 2

    chosen = select(support(shots), scores_of, fixed=1)
    assert sorted(held) == list(range(3 * shots)) and fits == folds
    assert chosen.selected_on == SUPPORT_CV and chosen.losses == pytest.approx(
        (np.log(3), np.log(3))
    )


def test_one_shot_takes_the_fixed_value_and_fits_nothing():
    def scores_of(part: Support, features: Tensor) -> list[Tensor]:
        raise AssertionError("nothing to validate on")

    chosen = select(support(1), scores_of, fixed=7)
    assert (chosen.index, chosen.selected_on, chosen.losses) == (7, FIXED, ())


@pytest.mark.parametrize(("floor", "index"), [(True, 1), (False, 0)])
def test_several_shots_get_no_less_freedom_than_one(floor, index):
    def scores_of(part: Support, features: Tensor) -> list[Tensor]:
        return [torch.zeros(len(features), 3)] * 2

    chosen = select(replace(support(4), floor=floor), scores_of, fixed=1)
    assert chosen.index == index and chosen.selected_on == SUPPORT_CV


class TestTheBestAndTheMostCautious:
    def test_ties_go_to_the_cautious(self):
        assert most_cautious(np.array([[1.0, 1, 2], [1, 1, 1], [1, 1, 1]])) == 1

    @pytest.mark.parametrize("standard_errors", [0.0, 1.0])
    def test_a_clear_winner_wins(self, standard_errors):
        losses = np.random.default_rng(0).random((3, 100))
        losses[2] = losses[1] - 0.1  # better on every sample
        losses[0] = losses[1] + 0.1
        assert most_cautious(losses, standard_errors) == 2

    def test_a_hair_wins_unless_caution_is_asked_for(self):
        losses = np.tile(np.array([[1.0, 0.0], [0.0, 1.0]]), 50)
        losses[1] -= 0.05  # better on average, worse on half of the samples: half a standard error
        assert most_cautious(losses) == 1 and most_cautious(losses, standard_errors=1) == 0
        assert most_cautious(np.array([[2.0, 0, 1], [1, 1, 1], [1, 1, 1]]), standard_errors=1) == 0
