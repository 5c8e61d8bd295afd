"""Effective robustness (Taori et al. 2020): what a model is ahead of the accuracy that models trained on ImageNet alone
reach on a test set drawn otherwise, at its accuracy on ImageNet.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_diht.common.yaml_files import read_yaml

IMAGENET = "imagenet1k"
_NORMAL = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """One test set."""

    task: str
    value: float
    """Accuracy minus what is expected; shares between -1 and 1."""
    low: float | None
    """End of the 95 % interval over images of both sets; the curve is taken as known. None without intervals."""
    high: float | None
    expected: float
    spread: float
    """Standard deviation of the models behind the curve around it; shares."""
    beyond: bool
    """The model's ImageNet accuracy is outside that of the models behind the curve."""


def effective_robustness(main: Mapping[str, Mapping[str, Any]]) -> list[Robustness]:
    """Of every test set that has a curve and was measured beside ImageNet; `main` are rows of results.json, by task."""
    imagenet = main.get(IMAGENET)
    if imagenet is None or not _top1(imagenet):
        return []
    at, ends = imagenet["value"], _baseline()["range"]
    found = []
    for task, curve in _baseline()["sets"].items():
        row = main.get(task)
        if row is None or not _top1(row):
            continue
        expected = expected_accuracy(at, curve)
        slope = curve["slope"] * expected * (1 - expected) / (at * (1 - at))
        errors = [_error(row), _error(imagenet)]
        value, width = row["value"] - expected, None
        if errors[0] is not None and errors[1] is not None:
            width = _NORMAL * math.hypot(errors[0], slope * errors[1])
        found.append(
            Robustness(
                task=task,
                value=value,
                low=None if width is None else value - width,
                high=None if width is None else value + width,
                expected=expected,
                spread=curve["spread"] / 100,
                beyond=not ends[0] <= at <= ends[1],
            )
        )
    return found


def expected_accuracy(imagenet: float, curve: Mapping[str, float]) -> float:
    """Of a model with that accuracy on ImageNet, trained on ImageNet alone."""
    return 1 / (1 + math.exp(-(curve["slope"] * math.log(imagenet / (1 - imagenet)) + curve["intercept"])))


def _top1(row: Mapping[str, Any]) -> bool:
    return row["metric"] == "top1" and row["value"] is not None and 0 < row["value"] < 1


def _error(row: Mapping[str, Any]) -> float | None:
    """Standard error, from the interval."""
    low, high = row["low"], row["high"]
    return None if low is None or high is None else float(high - low) / (2 * _NORMAL)


@functools.cache
def _baseline() -> Mapping[str, Any]:
    return read_yaml(Path(__file__).with_name("robustness.yaml"))
