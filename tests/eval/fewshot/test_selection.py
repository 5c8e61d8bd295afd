"""Choices come from held-out shots and are cautious."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.fewshot.selection import FIXED, SUPPORT_CV, Support, one_standard_error, select


def support(shots: int, classes: int = 3) -> Support:
    n = shots * classes
    return Support(
        features=torch.arange(n, dtype=torch.float32)[:, None],  # a feature is the sample's own number
        labels=torch.arange(classes).repeat_interleave(shots),
        places=np.tile(np.arange(shots), classes),
        classifier=torch.zeros(classes, 1),
        logit_scale=1.0,
    )


@pytest.mark.parametrize(("shots", "folds"), [(2, 2), (3, 3), (4, 4), (5, 4), (16, 4)])
def test_every_shot_is_held_out_once_and_never_trained_on_then(shots: int, folds: int) -> None:
    held: list[float] = []
    fits = 0

    def predict(part: Support, features: Tensor) -> NDArray[np.int64]:
        nonlocal fits
        fits += 1
        trained, asked = set(part.features.ravel().tolist()), features.ravel().tolist()
        assert not trained & set(asked) and len(trained) + len(asked) == 3 * shots
        held.extend(asked)
        return np.zeros((2, len(features)), dtype=np.int64)

    chosen = select(support(shots), predict, fixed=1)
    assert sorted(held) == list(range(3 * shots)) and fits == folds
    assert chosen.selected_on == SUPPORT_CV and chosen.accuracy == pytest.approx((1 / 3, 1 / 3))


def test_one_shot_takes_the_fixed_value_and_fits_nothing() -> None:
    def predict(part: Support, features: Tensor) -> NDArray[np.int64]:
        raise AssertionError("nothing to validate on")

    chosen = select(support(1), predict, fixed=7)
    assert (chosen.index, chosen.selected_on, chosen.accuracy) == (7, FIXED, ())


class TestOneStandardError:
    def test_ties_go_to_the_cautious(self) -> None:
        assert one_standard_error(np.array([[0, 1, 1], [1, 1, 0], [1, 1, 0.0]])) == 0

    def test_a_clear_winner_wins(self) -> None:
        hits = np.zeros((3, 100))
        hits[1, :80] = 1
        hits[2, :90] = 1  # ten better than candidate 1, on the same samples: more than one standard error
        assert one_standard_error(hits) == 2

    def test_a_hair_does_not_win(self) -> None:
        hits = np.zeros((2, 100))
        hits[0, :79] = 1
        hits[1, 1:81] = 1  # better by two, worse by one
        assert one_standard_error(hits) == 0
