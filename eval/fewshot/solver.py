"""Accelerated proximal gradient descent (FISTA) for softmax regression with a constraint or a penalty.

The problem is convex, so the answer must not depend on the way there. The step comes from the curvature of the
cross-entropy; there is no learning rate to tune. On a ball the Frank-Wolfe gap bounds how far the objective is from its
optimum, so "converged" is a statement about the answer and not about the last step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_FIRST_GUESS = 1 / 32  # of the curvature bound
_RELAX = 0.9  # after every step the curvature is tried lower
_ROUNDING = 16  # units in the last place by which the loss may miss the descent inequality


class Term(Protocol):
    """What keeps the offsets (C, d + 1) near zero; their last column is the bias."""

    def step(self, offsets: Tensor, step: float) -> Tensor:
        """The proximal step: a projection, or a shrinkage by `step`."""

    def value(self, offsets: Tensor) -> float:
        """What the term adds to the objective."""

    def gap(self, offsets: Tensor, gradient: Tensor) -> float:
        """How far the objective is from its optimum at most, from the gradient of the loss."""


@dataclass(frozen=True, slots=True)
class Ball:
    """||W||_F <= radius and ||b|| <= bias_radius."""

    radius: float
    bias_radius: float

    def step(self, offsets: Tensor, step: float) -> Tensor:
        weight, bias = offsets[:, :-1], offsets[:, -1:]
        return torch.cat([_project(weight, self.radius), _project(bias, self.bias_radius)], dim=1)

    def value(self, offsets: Tensor) -> float:
        return 0.0

    def gap(self, offsets: Tensor, gradient: Tensor) -> float:
        """Frank-Wolfe: <G, D> + radius ||G||. Where the radius is inf: ||G||, a bound for offsets that are off by 1."""
        gradient = gradient.double()  # the two terms all but cancel
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
    """weight / 2 ||W||^2; the bias is free, as in scikit-learn."""

    weight: float

    def step(self, offsets: Tensor, step: float) -> Tensor:
        return torch.cat([offsets[:, :-1] / (1 + step * self.weight), offsets[:, -1:]], dim=1)

    def value(self, offsets: Tensor) -> float:
        return self.weight / 2 * offsets[:, :-1].double().square().sum().item()

    def gap(self, offsets: Tensor, gradient: Tensor) -> float:
        """||G_W||^2 / (2 weight), by strong convexity, and ||G_b||, a bound for a bias that is off by 1."""
        weight_norm = (gradient[:, :-1] + self.weight * offsets[:, :-1]).norm().item()
        return weight_norm**2 / (2 * self.weight) + gradient[:, -1].norm().item()


@dataclass(frozen=True, slots=True)
class Solution:
    """Offsets (C, d + 1), bias in the last column in units of the cosine, and how good they are."""

    offsets: Tensor
    objective: float
    gap: float
    """The term's gap at the offsets."""
    steps: int
    converged: bool
    """False: `max_steps` ended it."""


class SoftmaxLoss:
    """Mean cross-entropy of scale * (x . (w_0 + w) + b) as a function of the offsets.

    features (n, d), labels (n,) and classifier (C, d) share dtype and device. Memory is a few score matrices (n, C):
    64 MB each for ImageNet at 16 shots."""

    def __init__(self, features: Tensor, labels: Tensor, classifier: Tensor, scale: float) -> None:
        self.features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        self.labels, self.classifier = labels[:, None], classifier
        self.scale = scale
        self.base = scale * (features @ classifier.T)
        self.shape = (classifier.shape[0], classifier.shape[1] + 1)

    def scores(self, offsets: Tensor) -> Tensor:
        """Logits (n, C); affine in the offsets, so those of a combination are the combination of those."""
        return torch.addmm(self.base, self.features, offsets.T, alpha=self.scale)

    def value(self, scores: Tensor) -> float:
        """The loss, summed in float64."""
        chosen = scores.gather(1, self.labels)
        return (torch.logsumexp(scores, dim=1, keepdim=True) - chosen).mean(dtype=torch.float64).item()

    def gradient(self, scores: Tensor) -> Tensor:
        """With respect to the offsets (C, d + 1)."""
        residual = torch.softmax(scores, dim=1)
        residual.scatter_add_(1, self.labels, torch.full_like(self.labels, -1, dtype=residual.dtype))
        return (self.scale / len(scores)) * (residual.T @ self.features)

    def curvature(self) -> float:
        """Upper bound of the Hessian: 1/2 scale^2 lambda_max(X^T X / n)."""
        n, d = self.features.shape
        gram = self.features.T @ self.features if d <= n else self.features @ self.features.T
        largest = torch.linalg.eigvalsh(gram.double())[-1].item() / n
        return 0.5 * self.scale**2 * largest * (1 + 1e-6)


def solve(
    loss: SoftmaxLoss, term: Term, *, start: Tensor | None = None, tolerance: float = 1e-3, max_steps: int = 1000
) -> Solution:
    """Minimise loss + term from `start` (default 0) until the term's gap is at most `tolerance`.

    The bound of the curvature is up to a hundred times what the loss shows near the answer, so the step is longer than
    its inverse wherever the descent inequality still holds, and falls back to it. Momentum starts anew where it points
    uphill (O'Donoghue and Candes 2015)."""
    bound = loss.curvature()
    curvature = bound * _FIRST_GUESS
    zero = loss.base.new_zeros(loss.shape)
    here = ahead = term.step(zero if start is None else start, 0.0)
    here_scores = ahead_scores = loss.scores(here)
    momentum, check_at = 1.0, 0
    for number in range(max_steps + 1):
        if number in (check_at, max_steps):
            check_at += 1 + number // 4  # half a step's work: often at first, then at every fifth step or so
            gap = term.gap(here, loss.gradient(here_scores))
            if gap <= tolerance or number == max_steps:
                objective = loss.value(here_scores) + term.value(here)
                return Solution(here, objective, gap, number, gap <= tolerance)
        value, gradient = loss.value(ahead_scores), loss.gradient(ahead_scores)
        slack = _ROUNDING * torch.finfo(gradient.dtype).eps * max(1.0, value)
        while True:
            there = term.step(ahead - gradient / curvature, 1 / curvature)
            there_scores = loss.scores(there)
            move = there - ahead
            model = value + torch.sum(gradient * move).item() + curvature / 2 * torch.sum(move * move).item()
            if curvature >= bound or loss.value(there_scores) <= model + slack:
                break
            curvature = min(2 * curvature, bound)
        if torch.sum(move * (there - here)) < 0:
            momentum = 1.0
        following = (1 + math.sqrt(1 + 4 * momentum * momentum)) / 2
        push = (momentum - 1) / following
        ahead, ahead_scores = there + push * (there - here), there_scores + push * (there_scores - here_scores)
        here, here_scores, momentum = there, there_scores, following
        curvature *= _RELAX
    raise AssertionError("unreachable: the last step returns")


def _project(matrix: Tensor, radius: float) -> Tensor:
    if math.isinf(radius):
        return matrix
    smallest = torch.finfo(matrix.dtype).tiny  # a matrix of zeros stays one
    if radius * torch.finfo(matrix.dtype).eps < smallest:  # points that the type cannot tell apart
        return torch.zeros_like(matrix)
    norm = matrix.double().norm().to(matrix.dtype)  # squares of the entries of a tiny ball underflow in float32
    return matrix * (radius / norm.clamp(min=smallest)).clamp(max=1.0)
