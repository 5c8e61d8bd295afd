"""The distillation loss: equal to its formula in numpy, values and gradients; pairs without a
target."""

from typing import Any

import numpy as np
import pytest
import torch

from open_diht.trainer.losses import Distillation, chunked

N = 17
D = 8
E = 5


def softmax(s: Any) -> Any:
    powers = np.exp(s - s.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def unit(x: Any) -> Any:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def textbook(
    x: Any, y: Any, scale: float, u: Any, v: Any, temperature: float, teachers: int = 1
) -> list[Any]:
    """Value, and gradients of images, texts and scale, among the pairs that have targets of all
    teachers."""
    of_each = [*zip(np.split(u, teachers, axis=1), np.split(v, teachers, axis=1), strict=True)]
    known = np.all([part.any(axis=1) for pair in of_each for part in pair], axis=0)
    a = unit(x)[known]
    b = unit(y)[known]
    cosines = [unit(one)[known] @ unit(other)[known].T for one, other in of_each]
    t = cosines[0]
    value = 0.0
    slope = np.zeros_like(t)
    for s, turn in ((scale * a @ b.T, False), (scale * b @ a.T, True)):
        p = np.mean([softmax((c.T if turn else c) / temperature) for c in cosines], axis=0)
        q = softmax(s)
        value += (p * np.log(p / q)).sum() / (2 * len(t))
        slope += ((q - p).T if turn else q - p) / (2 * len(t))
    gradients = [np.zeros_like(x), np.zeros_like(y)]
    for of, raw, mine, pulled in zip(
        gradients, (x, y), (a, b), (scale * slope @ b, scale * slope.T @ a), strict=True
    ):
        along = (pulled * mine).sum(axis=1, keepdims=True) * mine
        of[known] = (pulled - along) / np.linalg.norm(raw[known], axis=1, keepdims=True)
    return [value, *gradients, (slope * (a @ b.T)).sum()]


def drawn(seed: int = 0) -> tuple[Any, ...]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(N, D))
    u = generator.normal(size=(N, E))
    return x, x + 0.8 * generator.normal(size=(N, D)), u, u + 0.8 * generator.normal(size=(N, E))


def evaluated(
    loss: Distillation, x: Any, y: Any, scale: float, u: Any, v: Any, dtype: Any
) -> list[Any]:
    leaves = [torch.tensor(each, dtype=dtype).requires_grad_() for each in (x, y, scale)]
    image, text, factor = leaves
    value, _ = loss(image, text, factor, [torch.tensor(each) for each in (u, v)])
    value.backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("rows", [None, 1, 5])
@pytest.mark.parametrize(("scale", "temperature"), [(10.0, 0.07), (100.0, 0.01), (1.0, 1.0)])
def test_equals_the_formula(
    rows: Any, scale: float, temperature: float, relative_error: Any, monkeypatch: Any
) -> None:
    if rows:
        monkeypatch.setattr(chunked, "TILE_ELEMENTS", N * rows)
    x, y, u, v = drawn()
    u[[2, 3]], v[[3, 11]] = 0, 0  # only one of both is not enough
    loss = Distillation(weight=7.0, temperature=temperature)
    expected = textbook(x, y, scale, u, v, temperature)
    assert expected[0] > 1e-3
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        found = evaluated(loss, x, y, scale, u, v, dtype)
        assert all(
            relative_error(a, b) < tolerance for a, b in zip(found, expected, strict=True)
        ), dtype
    given = [torch.tensor(each) for each in (x, y, u, v)]
    taught = loss(given[0], given[1], torch.tensor(scale), given[2:])[1]
    assert np.flatnonzero(~taught.numpy()).tolist() == [2, 3, 11]


@pytest.mark.parametrize("rows", [None, 5])
@pytest.mark.parametrize(("teachers", "temperature"), [(2, 0.01), (2, 0.07), (3, 0.05)])
def test_of_several_teachers_the_mean_of_their_distributions_is_learned(
    rows: Any, teachers: int, temperature: float, relative_error: Any, monkeypatch: Any
) -> None:
    if rows:
        monkeypatch.setattr(chunked, "TILE_ELEMENTS", N * rows)
    parts = [drawn(seed) for seed in range(teachers)]
    x, y = parts[0][:2]
    # A teacher whose embeddings were stored longer than the others' says no more.
    u, v = (
        np.concatenate([(n + 1) * part[place] for n, part in enumerate(parts)], axis=1)
        for place in (2, 3)
    )
    u[4, :E], v[9, E:] = 0, 0  # one teacher without a target is enough
    loss = Distillation(weight=1.0, temperature=temperature, teachers=teachers)
    expected = textbook(x, y, 20.0, u, v, temperature, teachers)
    assert abs(expected[0] - textbook(x, y, 20.0, u, v, temperature)[0]) > 0.01, (
        "their mean cosine is another target"
    )
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        found = evaluated(loss, x, y, 20.0, u, v, dtype)
        assert all(
            relative_error(a, b) < tolerance for a, b in zip(found, expected, strict=True)
        ), dtype


def test_two_equal_teachers_are_one() -> None:
    x, y, u, v = drawn()
    one = evaluated(Distillation(weight=1.0, temperature=0.05), x, y, 20.0, u, v, torch.float64)
    two = Distillation(weight=1.0, temperature=0.05, teachers=2)
    both = evaluated(two, x, y, 20.0, np.hstack([u, u]), np.hstack([v, v]), torch.float64)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(one, both, strict=True))


def test_a_student_that_agrees_has_nothing_to_learn() -> None:
    u, v = drawn()[2:]
    value, *gradients = evaluated(
        Distillation(weight=1.0, temperature=0.1), u, v, 10.0, u, v, torch.float64
    )
    assert value.abs() < 1e-12 and all(each.abs().max() < 1e-12 for each in gradients)


def test_a_batch_without_targets_has_no_loss() -> None:
    x, y, u, v = drawn()
    found = evaluated(
        Distillation(weight=1.0, temperature=0.1), x, y, 100.0, 0 * u, v, torch.float32
    )
    assert not any(each.any() for each in found)  # and no NaN, which is true


def test_half_precision_is_computed_in_float32(relative_error: Any) -> None:
    x, y, u, v = (torch.tensor(each) for each in drawn())
    loss = Distillation(weight=1.0, temperature=0.05)
    stored = (u.half(), v.half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = loss(x.bfloat16(), y.bfloat16(), torch.tensor(20.0), stored)
    exact, _ = loss(x.bfloat16().double(), y.bfloat16().double(), torch.tensor(20.0), stored)
    assert found.dtype == torch.float32 and relative_error(found, exact) < 1e-5
