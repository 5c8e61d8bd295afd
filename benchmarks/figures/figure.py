"""Define what is measured: a figure compares sides that did the same work."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Side:
    """One program of a comparison, with one value for each repeat, in the figure's unit.

    `settings` are those that a reader needs to run it the same way: threads, batch, sizes.
    `interval` is a 95 % interval of the value, where it is a figure of quality.
    """

    name: str
    version: str
    settings: dict[str, str | int | float]
    values: list[float]
    interval: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Figure:
    """One column of a table: figures of a part that have the same sides stand next to each other,
    told apart by their names and units.

    `base` is the side that ratios are taken to; "" where ratios say nothing. `work` is one
    sentence about what all sides did, and `note` says how a user of the peers would set them, and
    why we lose where we do.
    """

    name: str
    unit: str
    work: str
    sides: Sequence[Side]
    base: str
    note: str = ""

    def __post_init__(self) -> None:
        names = [side.name for side in self.sides]
        if len(set(names)) < len(names):
            raise ValueError(f"figure {self.name!r}: two sides have the same name: {names}")
        if self.base and self.base not in names:
            raise ValueError(f"figure {self.name!r}: its base {self.base!r} is none of {names}")
        if self.base and len({len(side.values) for side in self.sides}) > 1:
            raise ValueError(f"figure {self.name!r}: ratios need as many repeats of each side")
        if not all(side.values for side in self.sides):
            raise ValueError(f"figure {self.name!r}: a side has no value")

    def ratios(self, name: str) -> list[float]:
        """Return the lowest, median and highest ratio of a side to the base in the same repeat."""
        sides = {side.name: side.values for side in self.sides}
        # Per repeat, so that slow moments of the machine cancel.
        each = [value / known for value, known in zip(sides[name], sides[self.base], strict=True)]
        return [min(each), statistics.median(each), max(each)]
