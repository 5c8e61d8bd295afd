"""Choosing a radius, a penalty or a temperature on the support set alone.

Few-shot results are often tuned on the test set, or on a validation set far larger than the support. Here the shots are
dealt into at most four folds, each fold is predicted from the others, and the candidate with the lowest cross-entropy
is taken, of several the most cautious. A single shot per class leaves nothing to validate on: then the value is fixed
beforehand.

A fold's classifier has fewer shots than the final one, so the choice errs on the cautious side. Therefore no rule of
one standard error on top, which stays so near the text that the shots are all but ignored; and several shots get no
less freedom than one does (`floor`). benchmarks/RESULTS.md has the figures.

Cross-entropy and not hits: with 20 held-out shots hits are too coarse to choose by, and the choice jumps between draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

SUPPORT_CV = "support_cv"
FIXED = "fixed"
FOLDS = 4


@dataclass(frozen=True, slots=True, eq=False)
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
    standard_errors: float = 0.0
    """How many standard errors a more cautious candidate may be behind the best. 0 takes the best."""
    floor: bool = True
    """Whether several shots get at least the freedom that is fixed for one."""

    @property
    def shots(self) -> int:
        """k, of the class that has most."""
        return int(self.places.max()) + 1

    def part(self, chosen: NDArray[np.bool_]) -> Support:
        """The samples of a fold, or those outside of it."""
        rows = np.flatnonzero(chosen)
        return replace(self, features=self.features[rows], labels=self.labels[rows], places=self.places[rows])


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice and how it came about."""

    index: int
    """Among the candidates."""
    selected_on: str
    """`support_cv`, or `fixed` where the support set has one shot per class."""
    losses: tuple[float, ...]
    """Cross-entropy of every candidate on held-out shots; empty where fixed."""

    @property
    def loss(self) -> float | None:
        """That of the choice; None where fixed."""
        return self.losses[self.index] if self.losses else None


def select(
    support: Support, scores_of: Callable[[Support, Tensor], Iterable[Tensor]], fixed: int, *, ordered: bool
) -> Selection:
    """Choose among candidates, which are ordered from the most cautious on.

    `scores_of(part, features)` fits the candidates on the part and yields the logits (m, C) of each for the features
    (m, d). `fixed` is the candidate for a single shot. Where candidates are one quantity in
    order (`ordered`), several shots take none more cautious than it, unless the support's `floor` is off."""
    folds = min(support.shots, FOLDS)
    if folds < 2:
        return Selection(fixed, FIXED, ())
    found: list[NDArray[np.float64]] = []
    for fold in range(folds):
        held = support.places % folds == fold
        outside = support.part(held)
        losses = [
            cross_entropy(scores.double(), outside.labels, reduction="none").cpu().numpy()
            for scores in scores_of(support.part(~held), outside.features)
        ]
        found.append(np.stack(losses))
    by_candidate = np.concatenate(found, axis=1)
    index = most_cautious(by_candidate, support.standard_errors)
    if ordered and support.floor:
        index = max(index, fixed)
    return Selection(index, SUPPORT_CV, tuple(by_candidate.mean(axis=1).tolist()))


def most_cautious(losses: NDArray[np.float64], standard_errors: float = 0.0) -> int:
    """The first candidate of losses (candidates, n) that is not worse than the best by more than so many standard
    errors of the difference. The same samples are lost by both, so the difference is far surer than either loss."""
    behind = losses - losses[np.argmin(losses.mean(axis=1))]
    error = behind.std(axis=1, ddof=1) / np.sqrt(losses.shape[1]) if losses.shape[1] > 1 else np.zeros(len(losses))
    return int(np.flatnonzero(behind.mean(axis=1) <= standard_errors * error)[0])
