"""The paper's few-shot probe: offsets around the zero-shot classifier, constrained to a norm ball.

    min over ||W||_F <= delta, ||b|| <= delta_b   of   mean_i CE(y_i, scale * (x_i . (w_0 + W) + b))

delta = 0 is the zero-shot classifier, bit for bit; delta = inf is the ordinary linear probe. In
between, delta limits how far the probe moves from the text (DiHT, CVPR 2023, few-shot section;
norm, solver and scaling are ours). The model's logit scale is not part of W, so delta is in units
of the classifier's unit rows and comparable between models.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from open_diht.eval.fewshot.solver import Ball, SoftmaxLoss, Solution, Term, solve


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier on L2-normalized features."""

    weight: Tensor
    """(C, d): zero-shot rows plus offsets."""
    bias: Tensor
    """(C,), in units of the cosine: the logit scale multiplies it too."""
    logit_scale: float
    solution: Solution | None
    """The solver's final state. It is None if there was nothing to solve."""

    def scores(self, features: Tensor) -> Tensor:
        """Return logits (n, C) of features (n, d)."""
        return self.logit_scale * (features @ self.weight.T + self.bias)

    @property
    def converged(self) -> bool:
        return self.solution is None or self.solution.converged


def fit_probe(
    loss: SoftmaxLoss,
    radius: float,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 1000,
) -> Probe:
    """Fit the probe of a loss in a ball of `radius` delta, an absolute Frobenius norm. The bias has
    a tenth of this radius. `start` are initial offsets (C, d + 1), and `tolerance` is the gap to
    reach, in nats. If the ball is finite and the solver converges, the mean loss is at most the gap
    above its optimum, from any start."""
    if not radius >= 0:
        raise ValueError(f"radius {radius}: norms are not negative")
    if radius == 0:
        return zero_shot_probe(loss.classifier, loss.scale)
    return fit_around(
        loss, Ball(radius, radius / 10), start=start, tolerance=tolerance, max_steps=max_steps
    )


def fit_around(
    loss: SoftmaxLoss,
    term: Term,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 1000,
) -> Probe:
    """Fit the probe under any term, a ball or an L2 penalty, from the offsets `start` (C, d +
    1)."""
    solution = solve(loss, term, start=start, tolerance=tolerance, max_steps=max_steps)
    return Probe(
        loss.classifier + solution.offsets[:, :-1], solution.offsets[:, -1], loss.scale, solution
    )


def zero_shot_probe(classifier: Tensor, logit_scale: float) -> Probe:
    return Probe(classifier, torch.zeros_like(classifier[:, 0]), logit_scale, None)


def absolute_radius(relative: float, classifier: Tensor) -> float:
    """Return delta for a radius relative to ||W_0||_F, so that tasks of 10 and of 1000 classes are
    comparable."""
    return math.inf if math.isinf(relative) else relative * classifier.norm().item()
