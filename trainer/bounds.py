"""Bounds of settings."""

from __future__ import annotations


def between(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless the setting called `name` lies between both."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must lie between {low} and {high}")


def above(name: str, value: float, bound: float) -> None:
    """Raise ValueError unless the setting called `name` is finite and above `bound`."""
    if not bound < value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be above {bound}")
