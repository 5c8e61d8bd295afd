"""Stages over image units: parts of caption units, each with the survivors of the caption filters in a range of rows.

What was fetched or read for an image unit stays. A preset that lets more rows through adds a segment to it; one that
lets fewer through finds all it needs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from open_diht.filters.presets import Preset, load_preset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Records, Stage
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.stages.annotator import Annotator
from open_diht.pipelines.stages.cascade import KEPT, apply_caption_filters
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.images import DOWNLOAD, state_of
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.fingerprints import fingerprint_of
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import place_of, segment_name
from open_diht.pipelines.store.storage import StorePath, read_table, stamps

_COUNTED_ROWS = 100_000


def all_rows(preset: Preset) -> str:
    """Return the name of the set of rows that are wanted where captions decide nothing: all with a caption of a length
    that the preset takes, and that its conditions on columns let through."""
    conditions = "".join(f"-{fingerprint_of(one)}" for one in preset.columns)
    return f"all-{preset.captions.max_chars}{conditions}"


def survivors(preset: Preset, annotations: str) -> str:
    """Return the name of the set of rows that survive a preset's filters on captions and columns, given the fingerprint
    of the annotations."""
    return f"{preset.captions_fingerprint}-{annotations}"


@dataclass(frozen=True)
class Survivors:
    """The rows whose images are wanted."""

    preset: Preset
    captions_decide: bool
    """False where the captions stage is not asked for: the images of all rows are wanted."""
    annotations: str
    """Fingerprint of the caption annotations: other annotations let other rows through."""

    @cached_property
    def _presets(self) -> list[Preset]:
        """The preset, and those that it foresees, whose rows are done at the same time."""
        if not self.captions_decide:
            return [self.preset]
        foreseen = (replace(load_preset(name), columns=self.preset.columns) for name in self.preset.foresee)
        return [self.preset, *foreseen]

    @property
    def covers(self) -> set[str]:
        """Names of the sets of rows that a finished image unit holds."""
        if not self.captions_decide:
            return {all_rows(self.preset)}
        return {survivors(preset, self.annotations) for preset in self._presets}

    @property
    def needed(self) -> set[str]:
        """Names of sets of rows, any of which holds all rows that the preset asks for."""
        mine = {survivors(self.preset, self.annotations)} if self.captions_decide else set()
        return {all_rows(self.preset), all_rows(replace(self.preset, columns=()))} | mine

    def ordinals(self, layout: Layout, image_unit: str, image_rows: int) -> NDArray[np.int64]:
        """Return the ordinals of the wanted rows of an image unit."""
        unit, number = place_of(image_unit)
        first, stop = number * image_rows, (number + 1) * image_rows
        columns = None if self.captions_decide else ["ordinal", "caption"]
        found = [np.empty(0, np.int64)]
        for rows in annotated_rows(layout, unit, self.preset, columns, between=("ordinal", first, stop)):
            ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
            survive = np.zeros(rows.num_rows, bool)
            for preset in self._presets:
                survive |= apply_caption_filters(rows, preset, self.captions_decide).reasons == KEPT
            found.append(ordinals[survive & (ordinals >= first) & (ordinals < stop)])
        return np.concatenate(found)


class SegmentStage(Stage):
    """A stage whose finished units stay. Where other thresholds let more rows through, only these are done."""

    adds = True
    nothing: ClassVar[dict[str, Any]]
    """The counts of a unit of which nothing is done yet."""

    @abstractmethod
    def candidates(self, unit: str) -> NDArray[np.int64]:
        """Return the ordinals of the rows that a finished unit has to hold, ascending."""

    @abstractmethod
    def covered(self, unit: str) -> set[str]:
        """Return the names of the sets of rows that a unit holds when it is done."""

    @abstractmethod
    def add(
        self, unit: str, name: str, ordinals: NDArray[np.int64], record: dict[str, Any], heartbeat: Heartbeat
    ) -> Sequence[StorePath]:
        """Do rows of a unit and publish them as a segment.

        Args:
            unit: name of the unit.
            name: name of the segment.
            ordinals: the rows (n,), ascending.
            record: the unit's commit record; counts are added to it.
            heartbeat: takes the number of rows done.

        Returns:
            The files of the segment.
        """

    def needed(self, unit: str) -> set[str]:
        """Return names of sets of rows, any of which holds all rows that a finished unit has to hold."""
        return self.covered(unit)

    def note(self, unit: str, record: dict[str, Any]) -> None:  # few depend on more
        """Write into the commit record of a finished unit what else `current` and `is_done` compare."""

    def seen(self, unit: str, segment: str, record: dict[str, Any]) -> NDArray[np.int64]:
        """Return the ordinals of the rows that a segment holds."""
        return np.asarray(read_table(self.layout.data(self.name, segment), columns=["ordinal"])["ordinal"])

    def is_done(self, unit: str, record: dict[str, Any] | None) -> bool:
        current = self.current(unit, record)
        return current is not None and not self.needed(unit).isdisjoint(current["covers"])

    def wanted(self, unit: str, known: dict[str, Any] | None) -> NDArray[np.int64]:
        """Return the ordinals of the rows that are still to be done.

        Args:
            unit: name of the unit.
            known: its commit record where that is `current`.
        """
        wanted = self.candidates(unit)
        for segment in range(known["segments"] if known is not None else 0):
            wanted = wanted[~np.isin(wanted, self.seen(unit, segment_name(unit, segment), known or {}))]
        return wanted

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        wanted = self.wanted(unit, before)
        heartbeat.expect(len(wanted))
        record = before or {"segments": 0, "covers": [], **self.nothing}
        files: Sequence[StorePath] = ()
        if len(wanted):
            files = self.add(unit, segment_name(unit, record["segments"]), wanted, record, heartbeat)
            record["segments"] += 1
        record["covers"] = sorted({*record["covers"], *self.covered(unit)})
        self.note(unit, record)
        return record, files

    # ---- records of other stages

    def prefetch(self, records: Records, units: Sequence[str]) -> None:
        """Read the download records of units, many at once, for `downloads`. They stay on the driver."""
        there = stamps(self.layout.commits(DOWNLOAD), ".json")
        found = records(DOWNLOAD, [unit for unit in units if unit in there])
        self._downloads = {**dict.fromkeys(units), **{unit: state_of(record) for unit, record in found}}

    def downloads(self, unit: str) -> list[Any] | None:
        """Return the state of a unit's downloaded images, see `images.state_of`."""
        known: dict[str, list[Any] | None] = self.__dict__.get("_downloads", {})
        return known[unit] if unit in known else state_of(read_json(self.layout.commit(DOWNLOAD, unit)))


class SegmentAnnotator(SegmentStage, Annotator):
    """A stage over the image units of rows that survive their captions."""

    @classmethod
    def units(cls, work: Work, units: Sequence[str]) -> list[str]:
        return work.image_units(units)

    def total(self, work: Work, todo: Sequence[str]) -> int | None:
        """Count the rows to do. Of large data it is not counted here, where one process would read all annotations;
        units say it when they begin."""
        if len(todo) * work.plan.image_rows > _COUNTED_ROWS:
            return None
        return sum(len(self.wanted(unit, self.current(unit, rec))) for unit, rec in work.records(self.name, todo))

    @classmethod
    def source(cls, record: dict[str, Any]) -> Any:
        return record["fingerprint"], record["segments"]
