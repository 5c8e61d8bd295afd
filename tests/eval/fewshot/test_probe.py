"""The probe finds the convex optimum, wherever it starts, and is the classifiers it claims to be at
both ends."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from open_diht.eval.fewshot.probe import absolute_radius, fit_around, fit_probe
from open_diht.eval.fewshot.solver import Ball, Ridge, SoftmaxLoss, solve
from tests.eval.fewshot.conftest import World

INF = math.inf


def loss_of(world: World, dtype: torch.dtype = torch.float64) -> SoftmaxLoss:
    return SoftmaxLoss(
        world.train.to(dtype), world.train_labels, world.classifier.to(dtype), world.scale
    )


def probabilities(scores: torch.Tensor) -> np.ndarray:
    return torch.softmax(scores, dim=1).numpy()


class TestEnds:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_no_radius_is_zero_shot_bit_for_bit(self, world, dtype):
        classifier = world.classifier.to(dtype, copy=True)
        test = world.test.to(dtype)
        classifier[0, 0] = -0.0
        probe = fit_probe(
            SoftmaxLoss(world.train.to(dtype), world.train_labels, classifier, world.scale), 0
        )
        assert probe.weight.numpy().tobytes() == classifier.numpy().tobytes()
        assert (
            probe.scores(test).numpy().tobytes()
            == (world.scale * (test @ classifier.T)).numpy().tobytes()
        )

    def test_infinite_radius_is_logistic_regression(self, blurred):
        probe = fit_probe(loss_of(blurred), INF, tolerance=1e-9, max_steps=20_000)
        theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
        theirs.fit(blurred.train.numpy() * blurred.scale, blurred.train_labels.numpy())
        ours = probabilities(probe.scores(blurred.test))
        assert probe.converged
        assert (
            np.abs(ours - theirs.predict_proba(blurred.test.numpy() * blurred.scale)).max() < 1e-5
        )
        assert (ours.argmax(1) == theirs.predict(blurred.test.numpy() * blurred.scale)).all()

    @pytest.mark.parametrize("penalty", [0.3, 10.0])
    def test_l2_without_text_is_sklearns(self, world, penalty):
        blind = SoftmaxLoss(
            world.train, world.train_labels, torch.zeros_like(world.classifier), world.scale
        )
        probe = fit_around(blind, Ridge(penalty), tolerance=1e-9, max_steps=20_000)
        # penalty / 2 ||W||^2 beside a mean, against 1/2 ||W||^2 beside C times a sum.
        theirs = LogisticRegression(C=1 / (penalty * len(world.train)), tol=1e-10, max_iter=10_000)
        theirs.fit(world.train.numpy() * world.scale, world.train_labels.numpy())
        expected = theirs.predict_proba(world.test.numpy() * world.scale)
        assert np.abs(probabilities(probe.scores(world.test)) - expected).max() < 1e-5


class TestOptimum:
    @pytest.mark.parametrize("radius", [0.05, 0.3, 1.0])
    def test_no_other_solver_finds_less(self, world, radius):
        loss = loss_of(world)
        probe = fit_probe(loss, radius, tolerance=1e-8, max_steps=20_000)

        def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
            scores = loss.scores(torch.tensor(flat.reshape(loss.shape)))
            return loss.value(scores), loss.gradient(scores).numpy().ravel()

        def room(flat: np.ndarray) -> np.ndarray:
            offsets = flat.reshape(loss.shape)
            lengths = (offsets[:, :-1] ** 2).sum(), (offsets[:, -1] ** 2).sum()
            return np.array([radius**2 - lengths[0], (radius / 10) ** 2 - lengths[1]])

        start = np.zeros(math.prod(loss.shape))
        theirs = minimize(
            value,
            start,
            jac=True,
            method="SLSQP",
            constraints={"type": "ineq", "fun": room},
            options={"maxiter": 300, "ftol": 1e-10},
        )
        assert (
            probe.solution is not None
            and probe.converged
            and probe.solution.objective <= theirs.fun + 1e-6
        )
        assert probe.solution.objective == pytest.approx(theirs.fun, abs=2e-5)

    def test_the_start_has_no_say(self, world):
        loss = loss_of(world)
        starts = [
            None,
            torch.ones(loss.shape, dtype=torch.float64),
            torch.randn(loss.shape, dtype=torch.float64),
        ]
        found = [
            solve(loss, Ball(0.5, 0.05), start=start, tolerance=1e-9, max_steps=20_000)
            for start in starts
        ]
        assert max(one.objective for one in found) - min(one.objective for one in found) < 1e-8
        for one in found[1:]:
            assert torch.allclose(one.offsets, found[0].offsets, atol=1e-3)

    @pytest.mark.parametrize("radius", [0.05, 0.5])
    def test_the_gap_bounds_the_distance_to_the_optimum(self, world, radius):
        loss = loss_of(world)
        best = solve(loss, Ball(radius, radius / 10), tolerance=1e-10, max_steps=20_000).objective
        for steps in (1, 3, 8, 20):
            early = solve(loss, Ball(radius, radius / 10), tolerance=0.0, max_steps=steps)
            assert -1e-9 <= early.objective - best <= early.gap + 1e-9

    def test_running_out_of_steps_is_said(self, world):
        assert not fit_probe(loss_of(world), 1.0, tolerance=1e-12, max_steps=2).converged

    def test_single_precision_finds_the_same(self, world):
        both = [
            fit_probe(loss_of(world, dtype), 0.3, tolerance=1e-5)
            for dtype in (torch.float32, torch.float64)
        ]
        assert torch.allclose(both[0].weight.double(), both[1].weight, atol=5e-3)


class TestBall:
    @settings(max_examples=30, deadline=None)
    @given(st.floats(1e-3, 3), st.floats(0, 1), st.integers(0, 99))
    @example(1.0, 1.3e-20, 0)
    @example(1.0, 1e-44, 0)
    def test_the_answer_lies_in_the_ball(self, radius, bias_radius, seed):
        generator = torch.Generator().manual_seed(seed)
        features = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator), dim=1)
        classifier = torch.nn.functional.normalize(torch.randn(3, 4, generator=generator), dim=1)
        loss = SoftmaxLoss(features, torch.arange(12) % 3, classifier, 30.0)
        offsets = solve(
            loss, Ball(radius, bias_radius), max_steps=50
        ).offsets.double()  # 1e-40 is no float32
        assert offsets[:, :-1].norm() <= radius * (1 + 1e-6) and offsets[
            :, -1
        ].norm() <= bias_radius * (1 + 1e-6)

    def test_relative_radius(self):
        classifier = torch.eye(4)  # ||W_0||_F = 2
        assert absolute_radius(0.1, classifier) == pytest.approx(0.2)
        assert absolute_radius(INF, classifier) == INF

    @pytest.mark.parametrize("radius", [-1.0, math.nan])
    def test_refuses_what_is_no_radius(self, world, radius):
        with pytest.raises(ValueError, match="norms are not negative"):
            fit_probe(loss_of(world), radius)


def test_the_curvature_bounds_the_hessian(world):
    loss = loss_of(world)

    def of(flat: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            loss.scores(flat.reshape(loss.shape)), world.train_labels
        )

    zero = torch.zeros(math.prod(loss.shape), dtype=torch.float64)
    largest = torch.linalg.eigvalsh(torch.autograd.functional.hessian(of, zero))[-1].item()
    assert 0 < largest <= loss.curvature()
