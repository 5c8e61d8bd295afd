"""Decisions of stages of one's own: of rows that the filters keep, by what the stage has annotated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from pipelines.stages.decisions import Reasons, Step
from pipelines.store.layout import Layout


def steps_of(judges: Sequence[Judge]) -> list[Step]:
    """The steps of all of them."""
    return [step for one in judges for step in one.steps]


class Judge(Protocol):
    """A small picklable object."""

    @property
    def steps(self) -> Sequence[Step]:
        """Its reasons, in the order in which they are asked."""

    @property
    def fingerprint(self) -> str:
        """Changes with its thresholds."""

    def reasons(self, layout: Layout, unit: str, rows: pa.Table) -> Reasons:
        """For each of the rows (`ordinal`, `uid`, `caption`, ...) of a unit one of its reasons, or `KEPT`."""
