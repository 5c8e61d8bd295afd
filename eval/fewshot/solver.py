"""Accelerated proximal gradient descent (FISTA) for softmax regression with a constraint or a
penalty.

The problem is convex, so in a finite ball or with a penalty every start must reach the same
objective. The step size comes from the curvature of the cross-entropy; there is no learning rate to
tune. In a finite ball the Frank-Wolfe gap bounds the distance of the objective from its optimum, so
"converged" describes the answer and not the last step.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_FIRST_GUESS = 1 / 32  # fraction of the curvature bound
_RELAX = 0.9  # after every step, try a lower curvature
_ROUNDING = 16  # units in the last place by which the loss may violate the descent inequality


class Term(Protocol):
    """A constraint or penalty on the offsets (C, d + 1), whose last column is the bias."""

    def step(self, offsets: Tensor, step: float) -> Tensor:
        """Return the proximal step on offsets (C, d + 1): a projection, or a shrinkage by
        `step`."""

    def value(self, offsets: Tensor) -> float:
        """Return the term's contribution to the objective."""

    def gap(self, offsets: Tensor, gradient: Tensor) -> float:
        """Return the term's part of a bound on how far the objective is above its optimum. Some
        terms give a bound only close to the optimum."""


@dataclass(frozen=True, slots=True)
class Ball:
    """The constraint ||W||_F <= radius and ||b|| <= bias_radius."""

    radius: float
    bias_radius: float

    def step(self, offsets: Tensor, step: float) -> Tensor:
        weight = offsets[:, :-1]
        bias = offsets[:, -1:]
        return torch.cat([_project(weight, self.radius), _project(bias, self.bias_radius)], dim=1)

    def value(self, offsets: Tensor) -> float:
        return 0.0

    def gap(self, offsets: Tensor, gradient: Tensor) -> float:
        """Return the Frank-Wolfe gap: the sum of <G, D> + radius ||G|| over weights and bias. D are
        the offsets and G is the gradient, both (C, d + 1). If a radius is infinite, its summand is
        ||G||, a bound for offsets at most 1 off."""
        gradient = gradient.double()  # the two terms almost cancel
        weight_norm = gradient[:, :-1].norm().item()
        bias_norm = gradient[:, -1].norm().item()
        inside = gradient * offsets
        gap = 0.0
        for norm, radius, slope in (
            (weight_norm, self.radius, inside[:, :-1].sum().item()),
            (bias_norm, self.bias_radius, inside[:, -1].sum().item()),
        ):
            gap += norm if math.isinf(radius) else slope + radius * norm
        return gap


@dataclass(frozen=True, slots=True)
class Ridge:
    """The penalty weight / 2 ||W||^2. The bias is free, as in scikit-learn."""

    weight: float

    def step(self, offsets: Tensor, step: float) -> Tensor:
        return torch.cat([offsets[:, :-1] / (1 + step * self.weight), offsets[:, -1:]], dim=1)

    def value(self, offsets: Tensor) -> float:
        return self.weight / 2 * offsets[:, :-1].double().square().sum().item()

    def gap(self, offsets: Tensor, gradient: Tensor) -> float:
        """Return ||G_W||^2 / (2 weight), by strong convexity, plus ||G_b||, a bound for a bias at
        most 1 off."""
        weight_norm = (gradient[:, :-1] + self.weight * offsets[:, :-1]).norm().item()
        return weight_norm**2 / (2 * self.weight) + gradient[:, -1].norm().item()


@dataclass(frozen=True, slots=True)
class Solution:
    """Offsets (C, d + 1), with the bias in the last column in units of the cosine, and their
    quality."""

    offsets: Tensor
    objective: float
    gap: float
    """The term's gap at the offsets."""
    steps: int
    converged: bool
    """False if `max_steps` was reached."""


class SoftmaxLoss:
    """Mean cross-entropy of scale * (x . (w_0 + w) + b) as a function of the offsets. features (n,
    d) and classifier (C, d) share dtype and device; labels are (n,). Memory is a few score matrices
    (n, C): 64 MB each for ImageNet at 16 shots."""

    def __init__(self, features: Tensor, labels: Tensor, classifier: Tensor, scale: float) -> None:
        self.features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        self.labels = labels[:, None]
        self.classifier = classifier
        self.scale = scale
        self.base = scale * (features @ classifier.T)
        self.shape = (classifier.shape[0], classifier.shape[1] + 1)

    def scores(self, offsets: Tensor) -> Tensor:
        """Return logits (n, C). They are affine in the offsets, so `solve` combines instead of
        recomputing them."""
        return torch.addmm(self.base, self.features, offsets.T, alpha=self.scale)

    def value(self, scores: Tensor) -> float:
        """Return the loss, summed in float64."""
        chosen = scores.gather(1, self.labels)
        return (
            (torch.logsumexp(scores, dim=1, keepdim=True) - chosen).mean(dtype=torch.float64).item()
        )

    def gradient(self, scores: Tensor) -> Tensor:
        """Return the gradient (C, d + 1) with respect to the offsets."""
        residual = torch.softmax(scores, dim=1)
        residual.scatter_add_(
            1, self.labels, torch.full_like(self.labels, -1, dtype=residual.dtype)
        )
        return (self.scale / len(scores)) * (residual.T @ self.features)

    def curvature(self) -> float:
        """Return an upper bound of the Hessian's eigenvalues: 1/2 scale^2 lambda_max(X^T X / n)."""
        n, d = self.features.shape
        # X X^T has the same largest eigenvalue and may be smaller.
        gram = self.features.T @ self.features if d <= n else self.features @ self.features.T
        largest = torch.linalg.eigvalsh(gram.double())[-1].item() / n
        return 0.5 * self.scale**2 * largest * (1 + 1e-6)


def solve(
    loss: SoftmaxLoss,
    term: Term,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-3,
    max_steps: int = 1000,
) -> Solution:
    """Minimize loss + term, from the offsets `start` (C, d + 1) or 0, until the term's gap is at
    most `tolerance`. After `max_steps` the last offsets are returned, even if the gap is larger.
    The curvature bound can be a hundred times the curvature near the answer. So the step is longer
    than the bound's inverse where the descent inequality still holds, and equal to this inverse
    elsewhere. Momentum restarts where it points uphill (O'Donoghue and Candes 2015)."""
    bound = loss.curvature()
    curvature = bound * _FIRST_GUESS
    zero = loss.base.new_zeros(loss.shape)
    # A step of size 0 only projects the start onto the constraint.
    here = ahead = term.step(zero if start is None else start, 0.0)
    here_scores = ahead_scores = loss.scores(here)
    momentum = 1.0
    check_at = 0
    for number in range(max_steps + 1):
        if number in (check_at, max_steps):
            # A check costs half a step, so intervals grow to about a quarter of the steps done.
            check_at += 1 + number // 4
            gap = term.gap(here, loss.gradient(here_scores))
            if gap <= tolerance or number == max_steps:
                objective = loss.value(here_scores) + term.value(here)
                return Solution(here, objective, gap, number, gap <= tolerance)
        value = loss.value(ahead_scores)
        gradient = loss.gradient(ahead_scores)
        # Rounding of the loss must not fail the descent test.
        slack = _ROUNDING * torch.finfo(gradient.dtype).eps * max(1.0, value)
        # Backtrack: raise the curvature until the quadratic model is above the loss, at most to the
        # bound.
        while True:
            there = term.step(ahead - gradient / curvature, 1 / curvature)
            there_scores = loss.scores(there)
            move = there - ahead
            # The quadratic model of the loss around `ahead`.
            model = (
                value
                + torch.sum(gradient * move).item()
                + curvature / 2 * torch.sum(move * move).item()
            )
            if curvature >= bound or loss.value(there_scores) <= model + slack:
                break
            curvature = min(2 * curvature, bound)
        # The step opposes the momentum: restart it.
        if torch.sum(move * (there - here)) < 0:
            momentum = 1.0
        following = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
        push = (momentum - 1) / following
        # Logits are affine in the offsets, so they are extrapolated instead of recomputed.
        ahead = there + push * (there - here)
        ahead_scores = there_scores + push * (there_scores - here_scores)
        here = there
        here_scores = there_scores
        momentum = following
        curvature *= _RELAX
    raise AssertionError("unreachable: the last step returns")


def _project(matrix: Tensor, radius: float) -> Tensor:
    if math.isinf(radius):
        return matrix
    smallest = torch.finfo(matrix.dtype).tiny  # keeps a matrix of zeros unchanged
    if radius * torch.finfo(matrix.dtype).eps < smallest:
        # The type cannot represent points of so small a ball.
        return torch.zeros_like(matrix)
    # Squares of the entries of a tiny ball underflow in float32.
    norm = matrix.double().norm().to(matrix.dtype)
    return matrix * (radius / norm.clamp(min=smallest)).clamp(max=1.0)
