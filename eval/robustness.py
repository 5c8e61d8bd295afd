"""Effective robustness (Taori et al. 2020): accuracy on a shifted test set beyond what ImageNet
accuracy predicts.

The prediction is a curve through models trained on ImageNet alone.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_diht.common.yaml_files import read_yaml

IMAGENET = "imagenet1k"
# Quantile 0.975 of the normal distribution, for intervals of 95 %.
_NORMAL = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """Effective robustness on one test set."""

    task: str
    value: float
    """Accuracy minus the expected one, between -1 and 1."""
    low: float | None
    """Lower end of the 95 % interval over images of both sets, with the curve taken as known. It is
    None if the accuracy on one of the sets has no interval."""
    high: float | None
    expected: float
    spread: float
    """Standard deviation, as a fraction, of the curve's models around it."""
    beyond: bool
    """True if the model's ImageNet accuracy is outside the range of the curve's models."""


def effective_robustness(main: Mapping[str, Mapping[str, Any]]) -> list[Robustness]:
    """Return the robustness on every test set that has a curve and was measured together with
    ImageNet, if both top-1 accuracies are above 0 and below 1. `main` maps a task to its row of
    results.json."""
    imagenet = main.get(IMAGENET)
    if imagenet is None or not _top1(imagenet):
        return []
    at = imagenet["value"]
    ends = _baseline()["range"]
    found = []
    for task, curve in _baseline()["sets"].items():
        row = main.get(task)
        if row is None or not _top1(row):
            continue
        expected = expected_accuracy(at, curve)
        # The derivative of the curve propagates ImageNet's own error to the expected accuracy.
        slope = curve["slope"] * expected * (1 - expected) / (at * (1 - at))
        errors = [_error(row), _error(imagenet)]
        value = row["value"] - expected
        width = None
        if errors[0] is not None and errors[1] is not None:
            # Images of the two sets are independent, so their errors add in squares.
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
    """Return the expected accuracy of a model trained on ImageNet alone, from the curve's slope and
    intercept."""
    return 1 / (
        1 + math.exp(-(curve["slope"] * math.log(imagenet / (1 - imagenet)) + curve["intercept"]))
    )


def _top1(row: Mapping[str, Any]) -> bool:
    return row["metric"] == "top1" and row["value"] is not None and 0 < row["value"] < 1


def _error(row: Mapping[str, Any]) -> float | None:
    """Estimate the standard error from the interval. Return None without one."""
    low = row["low"]
    high = row["high"]
    return None if low is None or high is None else float(high - low) / (2 * _NORMAL)


@functools.cache
def _baseline() -> Mapping[str, Any]:
    return read_yaml(Path(__file__).with_name("robustness.yaml"))
