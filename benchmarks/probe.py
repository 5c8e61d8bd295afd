"""Seconds per few-shot probe beside scikit-learn's L-BFGS on the same features, and how good each answer is.

    python -m benchmarks.probe [--classes 100] [--width 512] [--shots 1 4 16] [--penalties 0.01 0.0001] [--repeats 3]

Features are synthetic: classes around random centres, images scattered around them, a text classifier that is roughly
right, all L2-normalised, logit scale 100. Both sides solve the L2-penalised problem without text, which scikit-learn
knows too, and stop at the same objective: scikit-learn gets the number of iterations that brings it to within 1e-4 of
ours. Sides run in turn. The probe itself has no peer; its time stands beside, with the Frank-Wolfe gap it reached,
which bounds how far its objective is from the optimum.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from open_diht.eval.fewshot.probe import Probe, absolute_radius, fit_around, fit_probe
from open_diht.eval.fewshot.solver import Ridge, SoftmaxLoss

SCALE = 100.0
CLOSE = 1e-4
"""Objectives that differ by less, in nats, count as the same."""
ITERATIONS = (3, 5, 7, 10, 15, 20, 35, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class World:
    """Training and test features with labels, and a zero-shot classifier (C, d)."""

    classifier: Tensor
    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor

    def first(self, shots: int) -> tuple[Tensor, Tensor]:
        """So many shots of every class."""
        rows = shots * len(self.classifier)
        return self.train[:rows], self.labels[:rows]


def make_world(classes: int, width: int, shots: int, seed: int = 0, tests: int = 2000) -> World:
    """Classes on a sphere, with a direction that all images share, as those of a dual encoder do."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def unit(vectors: Tensor) -> Tensor:
        return vectors / vectors.norm(dim=-1, keepdim=True)

    centres, common = unit(normal(classes, width)), unit(normal(width))
    classifier = unit(0.5 * centres + unit(normal(classes, width)))

    def images(of: Tensor) -> Tensor:
        return unit(0.6 * centres[of] + common + 2.2 * normal(len(of), width) / math.sqrt(width))

    labels, test_labels = torch.arange(classes).repeat(shots), torch.randint(classes, (tests,), generator=generator)
    return World(classifier, images(labels), labels, images(test_labels), test_labels)


def objective(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, penalty: float) -> float:
    """Mean cross-entropy plus penalty of weights (C, d) and a bias (C,) in logits, in float64."""
    scores = SCALE * features.double() @ weight.double().T + bias.double()
    loss = torch.nn.functional.cross_entropy(scores, labels).item()
    return loss + penalty / 2 * weight.double().square().sum().item()


def fit_lbfgs(features: Tensor, labels: Tensor, penalty: float, iterations: int) -> tuple[Tensor, Tensor]:
    """scikit-learn's weights (C, d) and bias (C,) after at most so many iterations."""
    model = LogisticRegression(C=1 / (penalty * len(features)), max_iter=iterations, tol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ended on purpose
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)  # one shot
        model.fit(SCALE * features.numpy(), labels.numpy())
    return torch.tensor(model.coef_), torch.tensor(model.intercept_)


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def accuracy(probe: Probe, world: World) -> float:
    """On the test images, in percent."""
    return 100 * (probe.scores(world.test).argmax(1) == world.test_labels).double().mean().item()


def measure_l2(world: World, shots: int, penalty: float, repeats: int) -> str:
    """One line: the penalised problem without text on both sides."""
    features, labels = world.first(shots)
    blind = torch.zeros_like(world.classifier)

    def ours() -> Probe:
        return fit_around(SoftmaxLoss(features, labels, blind, SCALE), Ridge(penalty), tolerance=CLOSE)

    fitted = ours()
    goal = objective(features, labels, fitted.weight, SCALE * fitted.bias, penalty)
    enough, reached = ITERATIONS[-1], math.inf
    for iterations in ITERATIONS:
        reached = objective(features, labels, *fit_lbfgs(features, labels, penalty, iterations), penalty)
        if reached <= goal + CLOSE:
            enough = iterations
            break
    mine, theirs = medians([ours, lambda: fit_lbfgs(features, labels, penalty, enough)], repeats)
    steps = fitted.solution.steps if fitted.solution else 0
    return (
        f"{shots:5}  {penalty / SCALE**2:7.0e}  {mine:6.2f}  {theirs:6.2f}  {theirs / mine:8.1f}  {goal:9.4f}  "
        f"{reached:10.4f}  {steps:5}  {enough:6}"
    )


def measure_ball(world: World, shots: int, logits: float, repeats: int) -> str:
    """One line: the probe at a radius."""
    features, labels = world.first(shots)
    radius = absolute_radius(logits / SCALE, world.classifier)

    def ours() -> Probe:
        return fit_probe(SoftmaxLoss(features, labels, world.classifier, SCALE), radius)

    (seconds,) = medians([ours], repeats)
    fitted = ours()
    assert fitted.solution is not None
    ended = fitted.solution
    return (
        f"{shots:5}  {logits:6.0f}  {seconds:7.2f}  {ended.steps:5}  {ended.gap:8.1e}  {accuracy(fitted, world):5.1f}"
    )


def medians(sides: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each side, run in turn."""
    times = [[timed(side) for side in sides] for _ in range(repeats)]
    return [statistics.median(side) for side in zip(*times, strict=True)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument(
        "--penalties", type=float, nargs="+", default=[0.01, 0.0001], help="L2, relative to the squared logit scale"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    world = make_world(options.classes, options.width, max(options.shots))
    zero_shot = fit_probe(SoftmaxLoss(world.train, world.labels, world.classifier, SCALE), 0.0)
    print(
        f"{options.classes} classes, {options.width} dimensions, {torch.get_num_threads()} torch threads, numpy "
        f"{np.__version__}; zero-shot {accuracy(zero_shot, world):.1f} %; medians of {options.repeats}, in seconds"
    )
    print("\nL2 without text\nshots       L2    ours  L-BFGS     ratio  objective  of L-BFGS  steps   iters")
    for shots in options.shots:
        for penalty in options.penalties:
            print(measure_l2(world, shots, penalty * SCALE**2, options.repeats), flush=True)
    print("\nthe probe\nshots  logits  seconds  steps       gap  top-1")
    for shots in options.shots:
        for logits in (2.0, 5.0, 12.0):
            print(measure_ball(world, shots, logits, options.repeats), flush=True)


if __name__ == "__main__":
    main()
