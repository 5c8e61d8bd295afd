"""The classes that a part of the figures returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Side:
    """One side of a figure: a peer or ours, with its version, its settings and the value of each
    repeat. An empty version is that of the commit."""

    name: str
    version: str
    settings: dict[str, Any]
    values: list[float]


@dataclass(frozen=True)
class Figure:
    """Sides that did the same work in turn. Ratios are those of a repeat to the base's."""

    name: str
    unit: str
    work: str
    sides: Sequence[Side]
    base: str
    note: str = ""
    """How a user of the peers would set them."""
