"""The paper's few-shot probe: offsets around the zero-shot classifier, kept on a norm ball.

    min over ||W||_F <= delta, ||b|| <= delta_b   of   mean_i CE(y_i, scale * (x_i . (w_0 + W) + b))

delta = 0 is the zero-shot classifier, bit for bit; delta = inf is the ordinary linear probe. In between the probe may
move as far from the text as the support set is worth (DiHT, CVPR 2023, few-shot section; norm, solver and scaling are
ours). The model's logit scale stays outside, so delta is in units of the classifier's unit rows and comparable between
models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from open_diht.eval.fewshot.solver import Ball, SoftmaxLoss, Solution, Term, solve


@dataclass(frozen=True, slots=True)
class Probe:
    """A linear classifier on L2-normalised features."""

    weight: Tensor
    """(C, d): zero-shot rows plus offsets."""
    bias: Tensor
    """(C,), in units of the cosine: the logit scale multiplies it too."""
    logit_scale: float
    solution: Solution | None
    """How the solver ended; None where there was nothing to solve."""

    def scores(self, features: Tensor) -> Tensor:
        """Logits (n, C) of features (n, d)."""
        return self.logit_scale * (features @ self.weight.T + self.bias)

    @property
    def converged(self) -> bool:
        return self.solution is None or self.solution.converged


def fit_probe(
    features: Tensor,
    labels: Tensor,
    classifier: Tensor,
    logit_scale: float,
    radius: float,
    bias_radius: float | None = None,
    *,
    rows: bool = False,
    start: Tensor | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 1000,
) -> Probe:
    """Fit on features (n, d), L2-normalised, with labels (n,) around the classifier (C, d), of one dtype and device.

    `radius` is delta, an absolute Frobenius norm (with `rows`: of every class's row); `bias_radius` is in units of the
    cosine, by default a tenth of delta. `tolerance` bounds the distance of the mean loss to its optimum, in nats.
    `start` are offsets (C, d + 1) to begin at; the answer does not depend on them.

    Raises ValueError for negative radii."""
    bias_radius = radius / 10 if bias_radius is None else bias_radius
    if not (radius >= 0 and bias_radius >= 0):
        raise ValueError(f"radius {radius}, bias radius {bias_radius}: norms are not negative")
    if radius == 0 and bias_radius == 0:
        return zero_shot_probe(classifier, logit_scale)
    ball = Ball(radius, bias_radius, rows)
    return fit_around(features, labels, classifier, logit_scale, ball, start, tolerance, max_steps)


def fit_around(
    features: Tensor,
    labels: Tensor,
    classifier: Tensor,
    logit_scale: float,
    term: Term,
    start: Tensor | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 1000,
) -> Probe:
    """The same under any term: a ball or an L2 penalty."""
    loss = SoftmaxLoss(features, labels, classifier, logit_scale)
    solution = solve(loss, term, start=start, tolerance=tolerance, max_steps=max_steps)
    return Probe(classifier + solution.offsets[:, :-1], solution.offsets[:, -1], logit_scale, solution)


def zero_shot_probe(classifier: Tensor, logit_scale: float) -> Probe:
    """The zero-shot classifier itself."""
    return Probe(classifier, torch.zeros_like(classifier[:, 0]), logit_scale, None)


def absolute_radius(relative: float, classifier: Tensor) -> float:
    """delta for a radius relative to ||W_0||_F, which is comparable between tasks of 10 and of 1000 classes."""
    return math.inf if math.isinf(relative) else relative * classifier.norm().item()
