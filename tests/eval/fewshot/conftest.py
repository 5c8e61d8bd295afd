"""A small world with classes, images scattered around them, and a text classifier that is roughly
right."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class World:
    """Normalised features with labels, and a zero-shot classifier (C, d)."""

    classifier: Tensor
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    scale: float = 20.0

    @property
    def keys(self) -> list[str]:
        return [f"image-{number:04}" for number in range(len(self.train))]


def make_world(
    classes: int = 5,
    d: int = 12,
    per_class: int = 30,
    tests: int = 400,
    noise: float = 1.2,
    seed: int = 0,
) -> World:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def unit(vectors: Tensor) -> Tensor:
        return vectors / vectors.norm(dim=-1, keepdim=True)

    centres = unit(normal(classes, d))
    common = unit(normal(d))
    classifier = unit(centres + unit(normal(classes, d)))
    labels = torch.arange(classes).repeat(per_class)
    test_labels = torch.randint(classes, (tests,), generator=generator)

    def images(of: Tensor) -> Tensor:
        return unit(centres[of] + common + noise * normal(len(of), d) / math.sqrt(d))

    return World(classifier, images(labels), labels, images(test_labels), test_labels)


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def blurred() -> World:
    """Classes overlap, so that the unconstrained optimum is finite."""
    return make_world(classes=4, d=6, per_class=60, noise=3.0, seed=1)
