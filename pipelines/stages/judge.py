"""Decisions of stages of one's own: of rows that the filters keep, by what the stage has annotated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import pyarrow as pa

from open_diht.filters.columns import ColumnCondition
from open_diht.pipelines.stages.decisions import Reasons, Step
from open_diht.pipelines.store.layout import Layout


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
        """For each of some rows (`ordinal`, `uid`, `caption`, ...) of a unit one of its reasons, or `KEPT`."""


@runtime_checkable
class MeasuringJudge(Judge, Protocol):
    """One that shows the numbers it went by: in columns of kept/ and rejected/, and in histograms of the report."""

    @property
    def conditions(self) -> Sequence[ColumnCondition]:
        """What is asked of the numbers; the reason of each is the name of the column."""

    def measured(self, layout: Layout, unit: str, rows: pa.Table) -> pa.Table:
        """The numbers of some rows of a unit, by the names of the columns; null where there is none."""


def conditions_of(judges: Sequence[Judge]) -> list[ColumnCondition]:
    """The conditions of those that measure."""
    return [condition for one in judges if isinstance(one, MeasuringJudge) for condition in one.conditions]
