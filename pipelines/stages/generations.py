"""Stages over image units, which are added to: more rows of a unit become another generation of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.stages.annotator import Annotator
from open_diht.pipelines.store.names import generation_name
from open_diht.pipelines.store.storage import StorePath, read_table

_COUNTED_ROWS = 100_000


class GenerationStage(Stage):
    """What was done of a unit stays. Other thresholds may let more rows through; only these are done then."""

    adds = True
    nothing: ClassVar[dict[str, Any]]
    """The counts of a unit of which nothing is done yet."""

    @abstractmethod
    def candidates(self, unit: str) -> NDArray[np.int64]:
        """Ordinals of the rows that a finished unit has to hold, ascending."""

    @abstractmethod
    def add(
        self, unit: str, name: str, ordinals: NDArray[np.int64], record: dict[str, Any], heartbeat: Heartbeat
    ) -> Sequence[StorePath]:
        """Do some rows of a unit, publish them as generation `name`, and add to the counts of `record`. Returns the
        files."""

    @abstractmethod
    def cover(self, unit: str, record: dict[str, Any]) -> None:
        """Write into `record` what the unit holds now."""

    def seen(self, unit: str, generation: str, record: dict[str, Any]) -> NDArray[np.int64]:
        """Ordinals of the rows that a generation holds."""
        return np.asarray(read_table(self.layout.data(self.name, generation), columns=["ordinal"])["ordinal"])

    def wanted(self, unit: str, known: dict[str, Any] | None) -> NDArray[np.int64]:
        """Ordinals of the rows that are still to be done, given the unit's commit record where it is `current`."""
        wanted = self.candidates(unit)
        if known is not None:
            for generation in range(known["generations"]):
                done = self.seen(unit, generation_name(unit, generation), known)
                wanted = wanted[~np.isin(wanted, done)]
        return wanted

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        """See `Stage`."""
        wanted = self.wanted(unit, before)
        heartbeat.expect(len(wanted))
        record = before or {"generations": 0, "covers": [], **self.nothing}
        files: Sequence[StorePath] = ()
        if len(wanted):
            files = self.add(unit, generation_name(unit, record["generations"]), wanted, record, heartbeat)
            record["generations"] += 1
        self.cover(unit, record)
        return record, files


class GenerationAnnotator(Annotator):
    """Of a stage over the image units of rows that survive their captions."""

    @abstractmethod
    def stage(self) -> GenerationStage:
        """See `Annotator`."""

    def units(self, units: Sequence[str]) -> list[str]:
        return self.work.image_units(units)

    def total(self, stage: Stage, todo: Sequence[str]) -> int | None:
        """Of large data it is not counted here, where one process would read all annotations: units say it when they
        are begun."""
        assert isinstance(stage, GenerationStage)
        if len(todo) * self.work.plan.image_rows > _COUNTED_ROWS:
            return None
        records = self.work.records(self.name, todo)
        return sum(len(stage.wanted(unit, stage.current(unit, record))) for unit, record in records)
