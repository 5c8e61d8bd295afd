"""Select the training samples that are the shots, as a function of seed, keys and labels alone.

Samples of a class are ordered by a hash of seed and key, and the first k are the k shots. So shots
are nested (the shot of k = 1 is among the two of k = 2). They do not depend on the order of the
samples, the model, or the version of a random generator.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Indices = NDArray[np.int64]


class ShotsMissing(ValueError):
    """Some classes have no training sample."""

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__(
            f"{len(classes)} classes have no training sample, the first is class {classes[0]}"
        )
        self.classes = tuple(classes)


@dataclass(frozen=True, slots=True)
class DrawnShots:
    """The samples of every class in the order in which they become shots, up to the largest k."""

    seed: int
    by_class: tuple[tuple[int, ...], ...]
    """Indices into the training set, class by class."""
    keys: tuple[tuple[str, ...], ...]
    """Keys of these samples, class by class."""

    def indices(self, k: int) -> Indices:
        """Return the k-shot support set, class by class. A class with fewer drawn samples gives all
        of them."""
        return np.array([index for order in self.by_class for index in order[:k]], dtype=np.int64)

    def places(self, k: int) -> Indices:
        """Return the rank of every sample of `indices(k)` within its class, from 0. Folds are made
        by this rank."""
        return np.array(
            [index for order in self.by_class for index in range(len(order[:k]))], dtype=np.int64
        )

    def short_classes(self, k: int) -> list[int]:
        """Return the classes with fewer than k samples. k is at most the number that was drawn."""
        return [number for number, order in enumerate(self.by_class) if len(order) < k]


def draw_shots(
    keys: Sequence[str], labels: ArrayLike, n_classes: int, k: int, seed: int
) -> DrawnShots:
    """Draw up to k shots of each class, in an order that the seed decides. Raises `ShotsMissing` if
    a class has no sample, and ValueError if keys repeat or labels do not fit."""
    classes = np.asarray(labels)
    if classes.shape != (len(keys),):
        raise ValueError(
            f"{len(keys)} keys, labels of shape {classes.shape}: expected one label per key"
        )
    if len(set(keys)) != len(keys):
        raise ValueError(
            f"{len(keys) - len(set(keys))} training keys are repeated: shots are named by their"
            " keys"
        )
    if k < 1:
        raise ValueError(f"{k} shots: expected at least 1")
    if len(classes) and (classes.min() < 0 or classes.max() >= n_classes):
        raise ValueError(
            f"training labels run from {classes.min()} to {classes.max()}, with {n_classes} classes"
        )
    members: list[list[tuple[bytes, int]]] = [[] for _ in range(n_classes)]
    for index, (key, label) in enumerate(zip(keys, classes.tolist(), strict=True)):
        members[label].append(
            (hashlib.sha256(f"{seed}/{key}".encode(errors="surrogatepass")).digest(), index)
        )
    empty = [number for number, found in enumerate(members) if not found]
    if empty:
        raise ShotsMissing(empty)
    by_class = tuple(tuple(index for _, index in sorted(found)[:k]) for found in members)
    return DrawnShots(
        seed, by_class, tuple(tuple(keys[index] for index in order) for order in by_class)
    )
