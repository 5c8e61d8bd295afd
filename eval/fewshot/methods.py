"""The probe and its baselines, each as a function of a support set.

Hyperparameters are chosen on the support set, or fixed for one shot per class; those of `ridge` and
`unprojected` are always fixed. Method names are keys of `METHODS`; a new method is a function and a
line there.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from open_diht.eval.fewshot.probe import Probe, absolute_radius, fit_around, fit_probe, zero_shot_probe
from open_diht.eval.fewshot.selection import FIXED, Selection, Support, select
from open_diht.eval.fewshot.solver import Ridge, SoftmaxLoss

NOTHING = "nothing to choose"
RADII = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0, math.inf)
"""Maximum change of the scores in logits, as root mean square over classes and without the bias, from
the zero-shot classifier (0) to the ordinary probe (inf). delta is this over the logit scale, times
||W_0||_F, so that the radii are comparable between tasks of 10 and 1000 classes and between models."""
RADIUS_OF_ONE_SHOT = RADII.index(8.0)
"""Index of the radius for one shot, which by default is also the minimum for several. It was found on Fashion-MNIST
and the stamps, which flatters their figures in benchmarks/RESULTS.md."""
PENALTIES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4, 3e-5, 1e-5)
"""L2 weights relative to the squared logit scale."""
PENALTY_OF_ONE_SHOT = PENALTIES.index(0.01)
TIP = tuple(itertools.product((0.1, 0.3, 1.0, 3.0, 10.0), (1.0, 3.0, 5.5, 10.0)))
"""(alpha, beta) of Tip-Adapter; the weight of the cache, alpha, grows."""
TIP_OF_ONE_SHOT = TIP.index((1.0, 5.5))
_TOLERANCE, _SELECTION_TOLERANCE = 1e-3, 1e-2  # nats of the mean loss; choosing a hyperparameter needs less precision
RIDGE_L2 = 1024.0
"""The value of big_vision's few-shot evaluator, for standardized features, not scaled by their number."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A classifier with the record of its choices."""

    scores: Callable[[Tensor], Tensor]
    """Maps features (m, d) to scores (m, C)."""
    chosen: dict[str, float]
    selected_on: str
    """`support_cv`, `fixed`, or a note that there was nothing to choose; never the test set."""
    converged: bool = True
    loss: float | None = None
    """Cross-entropy of a chosen radius or penalty on held-out shots, if there is one."""


def zero_shot(support: Support) -> Fitted:
    """Return the zero-shot classifier, from text alone."""
    return Fitted(zero_shot_probe(support.classifier, support.logit_scale).scores, {}, NOTHING)


@functools.lru_cache(maxsize=1)  # `text_or_zero` asks for it again
def probe(support: Support) -> Fitted:
    """Fit the paper's probe: offsets in a ball whose radius is chosen on the support set, or fixed for one shot."""
    choice = select(support, _path_scores(RADII, _probe_at), RADIUS_OF_ONE_SHOT, ordered=True)
    logits = RADII[choice.index]
    return _fitted(_probe_at(support, logits), {"delta": _delta(support, logits), "logits": logits}, choice)


def unprojected(support: Support) -> Fitted:
    """Fit the probe with delta = inf, started at the zero-shot classifier.

    Where shots are separable the optimum is at infinity. The result is where descent stopped on the
    flat loss, so the start matters.
    """
    fitted = _probe_at(support, math.inf)
    return Fitted(fitted.scores, {"delta": math.inf}, NOTHING, fitted.converged)


@functools.lru_cache(maxsize=1)
def random_init(support: Support) -> Fitted:
    """Fit the ordinary linear probe with L2, without the text.

    The penalized problem has a single optimum, but for a constant added to all biases, so a random start
    would not matter; it starts at zero.
    """
    return l2(replace(support, classifier=torch.zeros_like(support.classifier)))


def l2(support: Support) -> Fitted:
    """Fit the probe with an L2 penalty towards the zero-shot classifier instead of the ball."""
    choice = select(support, _path_scores(PENALTIES, _l2_at), PENALTY_OF_ONE_SHOT, ordered=True)
    penalty = PENALTIES[choice.index]
    return _fitted(_l2_at(support, penalty), {"l2": penalty}, choice)


def text_or_zero(support: Support) -> Fitted:
    """Fit the probe or the one without text, whichever has the lower held-out cross-entropy.

    Meant for weak text priors. A single shot per class gives no held-out loss; then the probe is
    used.
    """
    with_text, blind = probe(support), random_init(support)
    if with_text.loss is None or blind.loss is None or with_text.loss <= blind.loss:
        return replace(with_text, chosen={**with_text.chosen, "text": 1.0})
    return replace(blind, chosen={**blind.chosen, "text": 0.0})


def tip_adapter(support: Support) -> Fitted:
    """Fit training-free Tip-Adapter (Zhang et al., ECCV 2022): zero-shot logits + alpha exp(-beta (1 - x F^T)) Y.

    Written from its formula. Alpha and beta are chosen on the support set, or fixed for one shot per class, not on a
    validation or test set.
    """

    def scores_of(part: Support, features: Tensor) -> Iterator[Tensor]:
        return (_tip_scores(part, features, alpha, beta) for alpha, beta in TIP)

    choice = select(support, scores_of, TIP_OF_ONE_SHOT, ordered=False)
    alpha, beta = TIP[choice.index]
    return Fitted(
        lambda features: _tip_scores(support, features, alpha, beta),
        {"alpha": alpha, "beta": beta},
        choice.selected_on,
    )


def ridge(support: Support) -> Fitted:
    """Fit ridge regression in closed form to targets of -1 and 1 on standardized features, without the text."""
    mean, deviation = support.features.mean(dim=0), support.features.std(dim=0, correction=0)
    # A constant feature has no deviation; avoid dividing by 0.
    deviation = deviation.clamp(min=1e-6)

    def standardized(features: Tensor) -> Tensor:
        scaled = (features - mean) / deviation
        return torch.cat([scaled, torch.ones_like(scaled[:, :1])], dim=1).double()

    x = standardized(support.features)
    # One-versus-all targets.
    targets = -torch.ones(len(x), len(support.classifier), dtype=x.dtype, device=x.device)
    targets[torch.arange(len(x), device=x.device), support.labels] = 1.0
    # (X^T X + l I)^-1 X^T Y = X^T (X X^T + l I)^-1 Y: solve the smaller system.
    if x.shape[0] <= x.shape[1]:
        weight = x.T @ torch.linalg.solve(_loaded(x @ x.T), targets)
    else:
        weight = torch.linalg.solve(_loaded(x.T @ x), x.T @ targets)
    return Fitted(lambda features: standardized(features) @ weight, {"l2": RIDGE_L2}, FIXED)


METHODS: dict[str, Callable[[Support], Fitted]] = {
    "zero-shot": zero_shot,
    "probe": probe,
    "unprojected": unprojected,
    "random-init": random_init,
    "text-or-zero": text_or_zero,
    "l2": l2,
    "tip-adapter": tip_adapter,
    "ridge": ridge,
}


ASKED = {"text-or-zero": ("probe", "random-init")}
"""Methods that use the fits of others on the same support set, which are cached for them."""


def fitted_together(methods: Sequence[str]) -> list[tuple[str, ...]]:
    """Group the methods into parts that can be fitted independently, the largest first.

    A method is in one part with those that it uses.
    """
    # Maps the users and the used methods to the user, which names their part.
    joined = {one: name for name, others in ASKED.items() if name in methods for one in (*others, name)}
    parts: dict[str, list[str]] = {}
    for method in methods:
        parts.setdefault(joined.get(method, method), []).append(method)
    return sorted((tuple(part) for part in parts.values()), key=len, reverse=True)


def _delta(support: Support, logits: float) -> float:
    return absolute_radius(logits / support.logit_scale, support.classifier)


def _loss(support: Support) -> SoftmaxLoss:
    return SoftmaxLoss(support.features, support.labels, support.classifier, support.logit_scale)


def _probe_at(support: Support, logits: float, start: Tensor | None = None, tolerance: float = _TOLERANCE) -> Probe:
    return fit_probe(_loss(support), _delta(support, logits), start=start, tolerance=tolerance)


def _l2_at(support: Support, penalty: float, start: Tensor | None = None, tolerance: float = _TOLERANCE) -> Probe:
    return fit_around(_loss(support), Ridge(penalty * support.logit_scale**2), start=start, tolerance=tolerance)


def _path_scores(
    values: Sequence[float], fit: Callable[[Support, float, Tensor | None, float], Probe]
) -> Callable[[Support, Tensor], Iterator[Tensor]]:
    """Return a function that yields the scores of one probe per value, each started from the previous solution.

    That takes a fraction of the steps and, where the solver converges and radii are finite, gives about the same loss.
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


def _tip_scores(support: Support, features: Tensor, alpha: float, beta: float) -> Tensor:
    affinity = torch.exp(-beta * (1 - features @ support.features.T))
    scores = support.logit_scale * (features @ support.classifier.T)
    return scores.index_add_(1, support.labels, alpha * affinity)


def _loaded(gram: Tensor) -> Tensor:
    return gram + RIDGE_L2 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
