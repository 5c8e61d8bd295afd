"""The methods choose on the support set alone, and see what they should see."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from open_diht.eval.fewshot.methods import METHODS, PENALTIES, RADII, Fitted, fitted_together
from open_diht.eval.fewshot.selection import FIXED, SUPPORT_CV, Support
from tests.eval.fewshot.conftest import World


def support_of(world: World, shots: int) -> Support:
    classes = len(world.classifier)
    return Support(
        features=world.train[: classes * shots].double(),
        labels=world.train_labels[: classes * shots],
        places=np.repeat(np.arange(shots), classes),
        classifier=world.classifier.double(),
        logit_scale=world.scale,
    )


def accuracy(fitted: Fitted, world: World) -> float:
    return float((fitted.scores(world.test).argmax(1) == world.test_labels).double().mean())


@pytest.mark.parametrize("method", METHODS)
def test_choices_are_recorded_and_made_on_the_support_set(world, method):
    for shots in (1, 4):
        fitted = METHODS[method](support_of(world, shots))
        assert fitted.converged and fitted.scores(world.test).shape == (
            len(world.test),
            len(world.classifier),
        )
        if method in ("probe", "random-init"):
            assert fitted.selected_on == (FIXED if shots == 1 else SUPPORT_CV) and fitted.chosen
        elif method != "text-or-zero":
            assert fitted.selected_on not in (SUPPORT_CV,)


def test_text_or_zero_takes_the_text_where_it_helps_and_none_where_it_misleads(world):
    support = support_of(world, 8)
    means = torch.stack([world.train[world.train_labels == label].mean(0) for label in range(5)])
    helpful = replace(support, classifier=means / means.norm(dim=1, keepdim=True))
    misleading = replace(support, classifier=helpful.classifier.roll(1, dims=0))
    for support, text in ((helpful, 1.0), (misleading, 0.0)):
        found = METHODS["text-or-zero"](support)
        other = METHODS["probe" if text else "random-init"](support)
        assert found.chosen["text"] == text and found.selected_on == SUPPORT_CV
        assert torch.equal(found.scores(world.test), other.scores(world.test))
    # Nothing is held out.
    assert METHODS["text-or-zero"](support_of(world, 1)).chosen["text"] == 1.0


def test_the_blind_probe_does_not_see_the_text(world):
    support = support_of(world, 2)
    other = replace(support, classifier=-support.classifier.flip(0))
    both = [METHODS["random-init"](one).scores(world.test) for one in (support, other)]
    assert torch.equal(*both)


def test_the_probe_learns_and_starts_above_the_blind_one(world):
    few = support_of(world, 1)
    many = support_of(world, 16)
    assert accuracy(METHODS["probe"](few), world) > accuracy(METHODS["random-init"](few), world)
    assert (
        accuracy(METHODS["probe"](few), world) >= accuracy(METHODS["zero-shot"](few), world) - 0.02
    )
    assert accuracy(METHODS["probe"](many), world) > accuracy(METHODS["probe"](few), world) + 0.05


def test_methods_are_fitted_beside_those_they_ask_and_otherwise_apart():
    whole = fitted_together(tuple(METHODS))
    assert whole[0] == ("probe", "random-init", "text-or-zero")
    assert sorted(method for part in whole for method in part) == sorted(METHODS)
    assert [len(part) for part in whole[1:]] == [1] * (len(METHODS) - 3)
    assert fitted_together(("probe", "random-init")) == [("probe",), ("random-init",)]


def test_candidates_run_from_cautious_to_bold():
    assert list(RADII) == sorted(RADII) and RADII[0] == 0
    assert list(PENALTIES) == sorted(PENALTIES, reverse=True)
