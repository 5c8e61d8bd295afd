"""The probe and its baselines, each as a function of a support set.

Hyperparameters are chosen on the support set, or fixed for one shot per class. Method names are
keys of `METHODS`; a new method is a function and a line there.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from open_diht.eval.fewshot.probe import (
    Probe,
    absolute_radius,
    fit_around,
    fit_probe,
    zero_shot_probe,
)
from open_diht.eval.fewshot.selection import Selection, Support, select
from open_diht.eval.fewshot.solver import Ridge, SoftmaxLoss

NOTHING = "nothing to choose"
RADII = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, math.inf)
"""Maximum change of the scores in logits (root mean square over classes, without the bias), from
the zero-shot classifier (0) to the ordinary probe (inf). delta is the radius divided by the logit
scale, times ||W_0||_F, so that radii are comparable between tasks of 10 and 1000 classes and
between models."""
RADIUS_OF_ONE_SHOT = RADII.index(8.0)
"""Index of the radius for one shot, which by default is also the minimum for several. It was found
on Fashion-MNIST and the stamps, so figures of these sets are too favorable."""
PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4, 3e-5, 1e-5)
"""L2 weights relative to the squared logit scale."""
PENALTY_OF_ONE_SHOT = PENALTIES.index(0.01)
# Nats of the mean loss; choosing a hyperparameter needs less precision.
_TOLERANCE = 1e-3
_SELECTION_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True)
class Fitted:
    """A classifier with the record of its choices."""

    scores: Callable[[Tensor], Tensor]
    """Maps features (m, d) to scores (m, C)."""
    chosen: dict[str, float]
    selected_on: str
    """`support_cv`, `fixed`, or a note that there was nothing to choose. The test set is never
    used."""
    converged: bool = True
    loss: float | None = None
    """Cross-entropy of a chosen radius or penalty on held-out shots, if there is one."""


def zero_shot(support: Support) -> Fitted:
    """Return the zero-shot classifier, from text alone."""
    return Fitted(zero_shot_probe(support.classifier, support.logit_scale).scores, {}, NOTHING)


@functools.lru_cache(maxsize=1)  # `text_or_zero` asks for it again
def probe(support: Support) -> Fitted:
    """Fit the paper's probe: offsets in a ball whose radius is chosen on the support set, or fixed
    for one shot."""
    choice = select(support, _path_scores(RADII, _probe_at), RADIUS_OF_ONE_SHOT)
    logits = RADII[choice.index]
    return _fitted(
        _probe_at(support, logits), {"delta": _delta(support, logits), "logits": logits}, choice
    )


@functools.lru_cache(maxsize=1)
def random_init(support: Support) -> Fitted:
    """Fit the ordinary linear probe with L2, without the text. It starts at zero. A random start
    would end at the same optimum, up to a constant in all biases, because the penalty leaves no
    other freedom."""
    blind = replace(support, classifier=torch.zeros_like(support.classifier))
    choice = select(blind, _path_scores(PENALTIES, _l2_at), PENALTY_OF_ONE_SHOT)
    penalty = PENALTIES[choice.index]
    return _fitted(_l2_at(blind, penalty), {"l2": penalty}, choice)


def text_or_zero(support: Support) -> Fitted:
    """Fit the probe with and without the text, and return the one with the lower held-out
    cross-entropy. It is meant for weak text priors. With a single shot per class there is no
    held-out loss, and the probe with text is used.
    """
    with_text = probe(support)
    blind = random_init(support)
    if with_text.loss is None or blind.loss is None or with_text.loss <= blind.loss:
        return replace(with_text, chosen={**with_text.chosen, "text": 1.0})
    return replace(blind, chosen={**blind.chosen, "text": 0.0})


METHODS: dict[str, Callable[[Support], Fitted]] = {
    "zero-shot": zero_shot,
    "probe": probe,
    "random-init": random_init,
    "text-or-zero": text_or_zero,
}
USES = {"text-or-zero": ("probe", "random-init")}
"""Maps a method to the methods whose cached fits on the same support set it reuses."""


def fitted_together(methods: Sequence[str]) -> list[tuple[str, ...]]:
    """Divide the methods into independent parts, largest first. Methods that reuse each other's
    fits are in one part."""
    # Maps the users and the used methods to the user, which names their part.
    joined = {
        one: name for name, others in USES.items() if name in methods for one in (*others, name)
    }
    parts: dict[str, list[str]] = {}
    for method in methods:
        parts.setdefault(joined.get(method, method), []).append(method)
    return sorted((tuple(part) for part in parts.values()), key=len, reverse=True)


def _delta(support: Support, logits: float) -> float:
    return absolute_radius(logits / support.logit_scale, support.classifier)


def _loss(support: Support) -> SoftmaxLoss:
    return SoftmaxLoss(support.features, support.labels, support.classifier, support.logit_scale)


def _probe_at(
    support: Support, logits: float, start: Tensor | None = None, tolerance: float = _TOLERANCE
) -> Probe:
    return fit_probe(_loss(support), _delta(support, logits), start=start, tolerance=tolerance)


def _l2_at(
    support: Support, penalty: float, start: Tensor | None = None, tolerance: float = _TOLERANCE
) -> Probe:
    return fit_around(
        _loss(support), Ridge(penalty * support.logit_scale**2), start=start, tolerance=tolerance
    )


def _path_scores(
    values: Sequence[float], fit: Callable[[Support, float, Tensor | None, float], Probe]
) -> Callable[[Support, Tensor], Iterator[Tensor]]:
    """Return a function that yields the scores of one probe per value, each started from the
    previous solution. Such a start takes a fraction of the steps, and the loss is about the same if
    the solver converges and radii are finite.
    """

    def scores_of(part: Support, features: Tensor) -> Iterator[Tensor]:
        start = None
        for value in values:
            fitted = fit(part, value, start, _SELECTION_TOLERANCE)
            # Start the next fit from this solution, which is near the next one.
            start = None if fitted.solution is None else fitted.solution.offsets
            yield fitted.scores(features)

    return scores_of


def _fitted(fitted: Probe, chosen: dict[str, float], choice: Selection) -> Fitted:
    return Fitted(fitted.scores, chosen, choice.selected_on, fitted.converged, choice.loss)
