"""Predictions of every probe, stored to compare two models on the same shots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_diht.common.files import published
from open_diht.eval.errors import DataBroken
from open_diht.eval.results import read_arrays

NAMES = ("keys", "label", "methods", "shots", "seeds", "predicted")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted classes of n test images."""

    keys: NDArray[np.str_]
    """(n,) names of the images, which are equal for every model on the same data."""
    label: NDArray[np.int64]
    """(n,) the true classes of the images."""
    methods: NDArray[np.str_]
    shots: NDArray[np.int64]
    seeds: NDArray[np.int64]
    predicted: NDArray[np.int32]
    """(methods, shots, seeds, n) predicted classes."""

    def write(self, path: Path) -> None:
        arrays: dict[str, Any] = {name: getattr(self, name) for name in NAMES}
        with published(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)

    def of(self, method: str, shots: int, seeds: list[int]) -> NDArray[np.int32]:
        """Return the (seeds, n) predictions of one method. Raises KeyError if they were not
        measured."""
        places = [
            _place(values, wanted)
            for values, wanted in (
                (self.methods, method),
                (self.shots, shots),
                *((self.seeds, one) for one in seeds),
            )
        ]
        return self.predicted[places[0], places[1], places[2:]]

    def ordered(self, keys: NDArray[np.str_]) -> Predictions:
        """Return the predictions in the order of `keys`. Raises KeyError if images differ or a key
        occurs twice."""
        place = {key: index for index, key in enumerate(self.keys.tolist())}
        # Finding every key proves that the images are the same if lengths are equal and no key is
        # repeated.
        if len(place) != len(self.keys) or len(keys) != len(self.keys):
            raise KeyError(f"{len(keys)} and {len(self.keys)} images, or names that repeat")
        order = np.array([place[key] for key in keys.tolist()])
        return Predictions(
            keys=keys,
            label=self.label[order],
            methods=self.methods,
            shots=self.shots,
            seeds=self.seeds,
            predicted=self.predicted[..., order],
        )


def read_predictions(path: Path) -> Predictions:
    """Return predictions as they were written. Raises the errors of `read_arrays`."""
    arrays = read_arrays(path, NAMES)
    found = Predictions(**{name: arrays[name] for name in NAMES})
    shape = tuple(len(arrays[name]) for name in ("methods", "shots", "seeds", "keys"))
    if found.predicted.shape != shape or found.label.shape != found.keys.shape:
        raise DataBroken(
            f"{path} has predictions of shape {found.predicted.shape}, expected {shape}"
        )
    return found


def _place(values: NDArray[Any], wanted: Any) -> int:
    found = np.flatnonzero(values == wanted)
    if len(found) != 1:
        raise KeyError(wanted)
    return int(found[0])
