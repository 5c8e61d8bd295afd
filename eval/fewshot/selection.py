"""Choosing a radius, a penalty or a temperature on the support set alone.

Few-shot results are often tuned on the test set, or on a validation set far larger than the support. Here the shots are
dealt into at most four folds, each fold is predicted from the others, and of the candidates that are not worse than the
best by more than one standard error the most cautious is taken. A single shot per class leaves nothing to validate on:
then the value is fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SUPPORT_CV = "support_cv"
FIXED = "fixed"
FOLDS = 4


@dataclass(frozen=True, slots=True)
class Support:
    """A support set and the classifier it is to improve; tensors share dtype and device."""

    features: Tensor
    """(n, d), L2-normalised."""
    labels: Tensor
    """(n,)"""
    places: NDArray[np.int64]
    """(n,): the how-manieth shot of its class each sample is, from 0."""
    classifier: Tensor
    """(C, d)"""
    logit_scale: float

    @property
    def shots(self) -> int:
        """k, of the class that has most."""
        return int(self.places.max()) + 1

    def part(self, chosen: NDArray[np.bool_]) -> Support:
        """The samples of a fold, or those outside of it."""
        rows = np.flatnonzero(chosen)
        return Support(self.features[rows], self.labels[rows], self.places[rows], self.classifier, self.logit_scale)


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice and how it came about."""

    index: int
    """Among the candidates."""
    selected_on: str
    """`support_cv`, or `fixed` where the support set has one shot per class."""
    accuracy: tuple[float, ...]
    """Of every candidate on held-out shots; empty where fixed."""


def select(support: Support, predict: Callable[[Support, Tensor], NDArray[np.int64]], fixed: int) -> Selection:
    """Choose among candidates, which are ordered from the most cautious on.

    `predict(part, features)` fits every candidate on the part and returns its predictions (candidates, m) for the
    features (m, d). `fixed` is the candidate for a single shot."""
    folds = min(support.shots, FOLDS)
    if folds < 2:
        return Selection(fixed, FIXED, ())
    hits: list[NDArray[np.float64]] = []
    for fold in range(folds):
        held = support.places % folds == fold
        outside = support.part(held)
        predicted = predict(support.part(~held), outside.features)
        hits.append((predicted == outside.labels.cpu().numpy()).astype(np.float64))
    by_candidate = np.concatenate(hits, axis=1)
    accuracy = tuple(by_candidate.mean(axis=1).tolist())
    return Selection(one_standard_error(by_candidate), SUPPORT_CV, accuracy)


def one_standard_error(hits: NDArray[np.float64]) -> int:
    """The first candidate of hits (candidates, n) that is not worse than the best by more than one standard error of
    the difference on the same samples. Differences are surer than accuracies: with 20 shots the standard error of an
    accuracy is 10 points, and every choice would be the most cautious one."""
    behind = hits[np.argmax(hits.mean(axis=1))] - hits
    error = behind.std(axis=1, ddof=1) / np.sqrt(hits.shape[1]) if hits.shape[1] > 1 else np.zeros(len(hits))
    return int(np.flatnonzero(behind.mean(axis=1) <= error)[0])
