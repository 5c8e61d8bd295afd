"""Choose a radius or a penalty on the support set alone.

Few-shot results are often tuned on the test set, or on a validation set far larger than the
support. Here the shots are divided into at most four folds, each fold is predicted from the others,
and the candidate with the lowest cross-entropy wins. In a tie the most cautious one wins. A single
shot per class leaves nothing to validate on, so the candidate is fixed in advance.

A fold's classifier has fewer shots than the final one, so the choice errs on the cautious side. For
this reason there is no one-standard-error rule by default: it would stay too near the text, above
all with few shots. And several shots get at least the freedom of one shot (`floor`).
The figures are in benchmarks/RESULTS.md of commit b655a113.

Hits are not used: with 20 held-out shots they are too coarse, and the choice jumps between draws.
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
"""Maximum number of folds, each of which fits every candidate. Of sixteen shots, each fit has
twelve."""


@dataclass(frozen=True, slots=True, eq=False)
class Support:
    """A support set and the classifier to improve. Both have one dtype, and all their tensors are
    on one device."""

    features: Tensor
    """(n, d), L2-normalized, or zero."""
    labels: Tensor
    """(n,)"""
    places: NDArray[np.int64]
    """(n,) rank of each sample among the shots of its class, from 0."""
    classifier: Tensor
    """(C, d)"""
    logit_scale: float
    standard_errors: float = 0.0
    """Number of standard errors by which a more cautious candidate may be worse than the best. 0
    takes the best."""
    floor: bool = True
    """Whether several shots get at least the freedom that is fixed for one shot."""

    @property
    def shots(self) -> int:
        """The number k of shots of the largest class."""
        return int(self.places.max()) + 1

    def part(self, chosen: NDArray[np.bool_]) -> Support:
        """Return the support set of the samples where `chosen` (n,) is true."""
        rows = np.flatnonzero(chosen)
        return replace(
            self, features=self.features[rows], labels=self.labels[rows], places=self.places[rows]
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """A chosen candidate and the losses it was chosen by."""

    index: int
    """Index among the candidates."""
    selected_on: str
    """`support_cv`, or `fixed` for a support set with one shot per class."""
    losses: tuple[float, ...]
    """Mean cross-entropy of every candidate on held-out shots. It is empty if the choice is
    fixed."""

    @property
    def loss(self) -> float | None:
        """The held-out cross-entropy of the choice. It is None if the choice is fixed."""
        return self.losses[self.index] if self.losses else None


def select(
    support: Support, scores_of: Callable[[Support, Tensor], Iterable[Tensor]], fixed: int
) -> Selection:
    """Choose among candidates, which begin with the most cautious. `scores_of` fits the candidates
    on a part and yields the logits (m, C) of each for features (m, d). A single shot per class gets
    the candidate `fixed`. Several shots never get a more cautious one than `fixed`, unless the
    support's `floor` is off."""
    folds = min(support.shots, FOLDS)
    if folds < 2:
        return Selection(fixed, FIXED, ())
    found: list[NDArray[np.float64]] = []
    for fold in range(folds):
        # Deal the shots of every class in turn, so that a class with enough shots is in every fold.
        held = support.places % folds == fold
        outside = support.part(held)
        losses = [
            cross_entropy(scores.double(), outside.labels, reduction="none").cpu().numpy()
            for scores in scores_of(support.part(~held), outside.features)
        ]
        found.append(np.stack(losses))
    by_candidate = np.concatenate(found, axis=1)
    index = most_cautious(by_candidate, support.standard_errors)
    if support.floor:
        # A larger index is a less cautious candidate.
        index = max(index, fixed)
    return Selection(index, SUPPORT_CV, tuple(by_candidate.mean(axis=1).tolist()))


def most_cautious(losses: NDArray[np.float64], standard_errors: float = 0.0) -> int:
    """Return the first candidate whose mean loss is at most `standard_errors` standard errors above
    the lowest. These are of the difference on the same samples, so usually far smaller than those
    of either loss."""
    behind = losses - losses[np.argmin(losses.mean(axis=1))]
    error = (
        behind.std(axis=1, ddof=1) / np.sqrt(losses.shape[1])
        if losses.shape[1] > 1
        else np.zeros(len(losses))
    )
    return int(np.flatnonzero(behind.mean(axis=1) <= standard_errors * error)[0])
