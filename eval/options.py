"""Choices of a run that change numbers, and are therefore part of what a finished task is kept under."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Which few-shot points are measured."""

    counts: tuple[int, ...] = (1, 2, 4, 5, 8, 16)
    """Shots per class."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Draws."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a kind of task is measured by, besides the task itself."""

    strict_ties: bool = False
    """Retrieval: count every equal score against the model."""
    shots: Shots | None = field(default_factory=Shots)
    """Few-shot points of the tasks that have a training split; None measures none."""
    linear_probe: bool = False
    """Also fit a probe on all of the training split."""
