"""Stages over image units.

An image unit is a range of the rows of a caption unit. Only its rows that pass the caption filters
are processed. The results are kept while models and settings stay the same. If another preset lets
more rows pass, these become a further segment. If it lets fewer rows pass, all results that it
needs are there.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, takewhile
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.naming import counted, listing
from open_diht.common.spelling import spelled_option
from open_diht.filters.base import CaptionFilter
from open_diht.filters.cascade import NotLookedAt, apply_cascade
from open_diht.filters.presets import Preset, load_preset
from open_diht.filters.several_captions import OTHER_CAPTIONS
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Records, Stage
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests import MissingImage, UnreadableFile
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.annotator import Annotator
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.images import (
    DOWNLOAD,
    images_at_hand,
    images_of,
    last_of_each,
    state_of,
)
from open_diht.pipelines.store.commit import CorruptRecord, read_json, remove
from open_diht.pipelines.store.layout import (
    Layout,
    image_unit_name,
    place_of,
    segment_name,
    unit_of,
)
from open_diht.pipelines.store.records import CommitRecord, fingerprint_of
from open_diht.pipelines.store.storage import StorePath, read_table, row_groups, stamps

RULES = 2
"""Increase the version when captions may pass that did not pass equal filters before. Their images
are then read."""
# Counting so many rows takes seconds at most.
_COUNTED_ROWS = 100_000


def all_rows(preset: Preset, values: str) -> str:
    """Return the name of the set of rows that are wanted if captions decide nothing: all rows with
    a caption of accepted length that pass the preset's conditions on columns, and its registered
    filters that need no annotations. `values`: see `WantedRows.values`."""
    own = [
        one
        for one in preset.filters
        if isinstance(one, CaptionFilter) and not one.needs_annotations
    ]
    conditions = "".join(f"-{fingerprint_of(one)}" for one in (*preset.columns, *own))
    return f"all-{preset.captions.max_chars}{conditions}{f'-{values}' if preset.columns else ''}"


def survivors_name(preset: Preset, annotations: str, values: str) -> str:
    """Return the name of the set of rows that pass a preset's filters on captions and columns.
    `annotations` and `values` are the fingerprints of `WantedRows`."""
    return f"{RULES}-{preset.captions_fingerprint}-{annotations}-{values}"


@dataclass(frozen=True)
class WantedRows:
    """The rows whose images are wanted."""

    preset: Preset
    captions_decide: bool
    """False if stage `captions` is not requested: filters that need its annotations are then
    skipped."""
    annotations: str
    """Fingerprint of the caption annotations. With other annotations, other rows may pass."""
    values: str = ""
    """Fingerprint of the values that the preset's conditions on columns compare; "" without
    conditions."""

    @cached_property
    def _presets(self) -> list[Preset]:
        """The preset and, if captions decide, those that it foresees: all their rows are processed
        at the same time."""
        if not self.captions_decide:
            return [self.preset]
        foreseen = (
            replace(load_preset(name), columns=self.preset.columns) for name in self.preset.foresee
        )
        return [self.preset, *foreseen]

    @property
    def covers(self) -> set[str]:
        """Names of the sets of rows that a finished image unit contains."""
        if not self.captions_decide:
            return {all_rows(self.preset, self.values)}
        return {survivors_name(preset, self.annotations, self.values) for preset in self._presets}

    @property
    def sufficient(self) -> set[str]:
        """Names of sets of rows, each of which contains all rows that the preset needs."""
        mine = (
            {survivors_name(self.preset, self.annotations, self.values)}
            if self.captions_decide
            else set()
        )
        some = self.preset.columns
        own = self.preset.filters
        fewer = (replace(self.preset, columns=c, filters=f) for c in (some, ()) for f in (own, ()))
        return {all_rows(preset, self.values) for preset in fewer} | mine

    def ordinals(self, layout: Layout, image_unit: str, image_rows: int) -> NDArray[np.int64]:
        """Return the ordinals of the wanted rows of an image unit, which has `image_rows` rows."""
        unit, number = place_of(image_unit)
        first = number * image_rows
        stop = (number + 1) * image_rows
        stages = ("captions",) if self.captions_decide else ()
        columns = None if self.captions_decide else ["ordinal", "caption", OTHER_CAPTIONS]
        found = [np.empty(0, np.int64)]
        for rows in annotated_rows(
            layout, unit, self.preset, columns, between=("ordinal", first, stop)
        ):
            ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
            survive = np.zeros(rows.num_rows, bool)
            for preset in self._presets:
                survive |= apply_cascade(rows, None, preset, stages).passed
            found.append(ordinals[survive & (ordinals >= first) & (ordinals < stop)])
        return np.concatenate(found)


def segments_of(
    layout: Layout, stage: str, unit: str, image_units: Iterable[int]
) -> Iterator[StorePath]:
    """Yield the files that a stage has stored for a caption unit, by image unit and segment. Raise
    CorruptRecord if a commit record is corrupt."""
    for number in image_units:
        name = image_unit_name(unit, number)
        path = layout.commit(stage, name)
        record = read_json(path)
        if record is not None and not (
            isinstance(record, dict) and isinstance(record.get("segments"), int)
        ):
            raise CorruptRecord(
                f"{path} is not a commit record; remove it, and run the same command to write it"
                " again"
            )
        for segment in range(record["segments"] if record else 0):
            yield layout.data(stage, segment_name(name, segment))


def stored_values(
    layout: Layout, stage: str, unit: str, column: str, ordinals: pa.ChunkedArray
) -> pa.Array:
    """Return the values that a stage over image units has stored for rows of a caption unit, as
    filters need them.

    Args:
        layout: the output folder.
        stage: name of the stage.
        unit: name of the caption unit.
        column: column of the stage's files, which also have `ordinal`.
        ordinals: the rows (n,).

    Returns:
        The n values. If a row was processed again, its last value counts.

    Raises:
        NotLookedAt: the stage has not processed one of the rows.
    """
    numbers = takewhile(
        lambda number: layout.commit(stage, image_unit_name(unit, number)).exists(), count()
    )
    first, last = (bound.as_py() or 0 for bound in pc.min_max(ordinals).values())
    wanted = ("ordinal", first, last + 1)  # callers ask for one batch of rows after another
    paths = segments_of(layout, stage, unit, numbers)
    tables = [
        table for path in paths for table in row_groups(path, ["ordinal", column], between=wanted)
    ]
    nothing = pa.table({"ordinal": pa.array([], pa.int64()), column: pa.nulls(0)})
    known = last_of_each(pa.concat_tables(tables)) if tables else nothing
    if not np.isin(ordinals, known["ordinal"]).all():
        raise NotLookedAt(
            f"unit {unit}: stage {stage} has not processed some rows, so they cannot be decided"
        )
    return (
        known[column].take(pa.array(np.searchsorted(known["ordinal"], ordinals))).combine_chunks()
    )


def images_or_reasons(
    layout: Layout, unit: str, plan: Plan, dataset: Dataset, ordinals: NDArray[np.int64]
) -> Iterator[tuple[int, bytes | MissingImage]]:
    """Yield the images of rows (n,) of a caption unit as `images_of` does. If the file of the
    images is damaged, the rows from there on have no image."""
    done = 0
    try:
        for row in images_of(layout, unit, plan.span(unit), plan.image_rows, dataset, ordinals):
            yield row
            done += 1
    except UnreadableFile as error:  # images may be damaged while the captions are intact
        missing = MissingImage(reason="image_unreadable", message=error.message)
        yield from ((ordinal, missing) for ordinal in ordinals[done:].tolist())


def check_images(settings: RunSettings, plan: Plan, reader: str, otherwise: str) -> None:
    """Refuse a run that reads images if a manifest has none, since it would reject all rows of that
    file.

    Args:
        settings: the run's settings.
        plan: the manifest files.
        reader: the stage or option that reads images, for the message.
        otherwise: how to run without images, for the message.

    Raises:
        WrongUse: a file has no images, or only URLs that are not downloaded.
    """
    layout = Layout(settings.output)
    downloads = images_at_hand(layout, DOWNLOAD in settings.stages)
    files = [info for info in plan.infos if info.rows != 0 and not info.images]
    lacking = [info for info in files if not (downloads and info.roles.url)]
    if not lacking:
        return
    first = lacking[0]
    more = f" (and {counted(len(lacking) - 1, 'more file')})" if len(lacking) > 1 else ""
    if first.roles.url is not None:
        raise WrongUse(
            f"{reader} reads images, and {first.path}{more} has only their URLs; add download to "
            f"{spelled_option('stages')}, or {otherwise}"
        )
    # The columns are part of what an output was made from.
    again = (
        f", and another OUTPUT than {layout.root}, or remove that folder"
        if layout.plan.exists()
        else ""
    )
    options = ("image-path-column", "image-column", "url-column")
    paths, data, urls = (spelled_option(option, "NAME") for option in options)
    raise WrongUse(
        f"{reader} reads images, and no column of {first.path}{more} is known to hold any; its"
        f" columns are {listing([column.name for column in first.columns])}. Name the one with"
        f" paths of image files ({paths}), their bytes ({data}) or their URLs ({urls}){again}; or"
        f" {otherwise}"
    )


class SegmentStage(Stage):
    """A stage that keeps results. If other thresholds let more rows pass, the stage processes only
    the new rows."""

    dataset: Dataset
    """How the manifests, and so the images, are read."""
    adds = True
    nothing: ClassVar[CommitRecord]
    """Entries of a unit's commit record before any of its rows is processed."""

    @abstractmethod
    def candidates(self, unit: str) -> NDArray[np.int64]:
        """Return the rows that a finished unit must contain.

        Args:
            unit: name of the unit.

        Returns:
            Their ordinals, ascending.
        """

    @abstractmethod
    def covered(self, unit: str) -> set[str]:
        """Return the names of the sets of rows that a unit contains when it is done.

        Args:
            unit: name of the unit.

        Returns:
            The names, which the commit record stores in `covers`.
        """

    @abstractmethod
    def add(
        self,
        unit: str,
        name: str,
        ordinals: NDArray[np.int64],
        record: CommitRecord,
        heartbeat: Heartbeat,
    ) -> Sequence[StorePath]:
        """Process rows of a unit and publish them as a segment.

        Args:
            unit: name of the unit.
            name: name of the segment.
            ordinals: the rows (n,), ascending.
            record: the unit's commit record, to which counts are added.
            heartbeat: receives the number of rows done.

        Returns:
            The files of the segment.
        """

    def images(
        self, unit: str, ordinals: NDArray[np.int64]
    ) -> Iterator[tuple[int, bytes | MissingImage]]:
        """Yield the images of rows, from the manifest or downloaded, in order.

        Args:
            unit: name of the unit.
            ordinals: the rows (n,), ascending.

        Yields:
            The ordinal of each row, and its image file as stored, not decoded, or the reason why
            there is none.
        """
        return images_or_reasons(self.layout, unit_of(unit), self._plan, self.dataset, ordinals)

    def sufficient(self, unit: str) -> set[str]:
        """Return names of sets of rows, each of which contains all rows that a finished unit must
        contain.

        Args:
            unit: name of the unit.

        Returns:
            The names. The unit is done if its commit record names one of them in `covers`.
        """
        return self.covered(unit)

    def is_done(self, unit: str, record: CommitRecord | None) -> bool:
        current = self.current(unit, record)
        return current is not None and not self.sufficient(unit).isdisjoint(current["covers"])

    def wanted(self, unit: str, known: CommitRecord | None) -> NDArray[np.int64]:
        """Return the rows that remain to be processed.

        Args:
            unit: name of the unit.
            known: its commit record if that is `current`.

        Returns:
            Their ordinals, ascending.
        """
        wanted = self.candidates(unit)
        return wanted[~np.isin(wanted, self.results(unit, known)["ordinal"])]

    def results(self, unit: str, known: CommitRecord | None, *columns: str) -> pa.Table:
        """Return the results of the rows that were processed. If a row was processed again, its
        last result counts.

        Args:
            unit: name of the unit.
            known: its commit record, or None before any row was processed.
            *columns: columns of the stage's files.

        Returns:
            A table of `ordinal`, ascending, and the columns.
        """
        count = known["segments"] if known is not None else 0
        paths = [
            self.layout.data(self.name, segment_name(unit, segment)) for segment in range(count)
        ]
        tables = [read_table(path, columns=["ordinal", *columns]) for path in paths]
        nothing = pa.table(
            {"ordinal": pa.array([], pa.int64()), **{name: pa.nulls(0) for name in columns}}
        )
        return last_of_each(pa.concat_tables(tables)) if tables else nothing

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        wanted = self.wanted(unit, before)
        heartbeat.expect(len(wanted))
        record: CommitRecord = before or {"segments": 0, "covers": [], **self.nothing}
        files: Sequence[StorePath] = ()
        if len(wanted):
            files = self.add(
                unit, segment_name(unit, record["segments"]), wanted, record, heartbeat
            )
            record["segments"] += 1
        if before is None:  # the results of another model may have had more segments
            stale = (
                self.layout.data(self.name, segment_name(unit, n))
                for n in count(record["segments"])
            )
            for path in takewhile(lambda path: path.exists(), stale):
                remove(path)
        record["covers"] = sorted({*record["covers"], *self.covered(unit)})
        return record, files

    # ---- records of other stages

    def prefetch(self, records: Records, units: Sequence[str]) -> None:
        """Read the download records of many units at once, for `downloads`. They stay on the
        driver.

        Args:
            records: reads the records of a stage's units.
            units: names of the units.
        """
        there = stamps(self.layout.commits(DOWNLOAD), ".json")
        found = records(DOWNLOAD, [unit for unit in units if unit in there])
        self._downloads = {
            **dict.fromkeys(units),
            **{unit: state_of(record) for unit, record in found},
        }

    def downloads(self, unit: str) -> list[Any] | None:
        """Return the state of a unit's downloaded images.

        Args:
            unit: name of the unit.

        Returns:
            A value that changes when images of the unit are downloaded, or None if stage `download`
            has not processed it.
        """
        known: dict[str, list[Any] | None] = self.__dict__.get("_downloads", {})
        return (
            known[unit]
            if unit in known
            else state_of(read_json(self.layout.commit(DOWNLOAD, unit)))
        )


class SegmentAnnotator(SegmentStage, Annotator):
    """A stage over the image units of rows that pass the caption filters."""

    survivors: WantedRows
    """The rows that are processed, see `wanted_rows`."""

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        """Check that every manifest has images. See `Annotator.check`."""
        if plan is not None and cls.runs(settings):
            otherwise = f"filter without images: {spelled_option('stages', 'captions,export')}"
            check_images(settings, plan, f"stage {cls.name}", otherwise)

    def candidates(self, unit: str) -> NDArray[np.int64]:
        return self.survivors.ordinals(self.layout, unit, self._plan.image_rows)

    def covered(self, unit: str) -> set[str]:
        return self.survivors.covers

    def sufficient(self, unit: str) -> set[str]:
        return self.survivors.sufficient

    @classmethod
    def units(cls, work: Work, units: Sequence[str]) -> list[str]:
        return work.image_units(units)

    def total(self, work: Work, todo: Sequence[str]) -> int | None:
        """Return the number of rows to process. Return None if there may be many: counting them
        here would make one process read all annotations, so each unit counts its rows when it
        starts."""
        if len(todo) * work.plan.image_rows > _COUNTED_ROWS:
            return None
        return sum(
            len(self.wanted(unit, self.current(unit, rec)))
            for unit, rec in work.records(self.name, todo)
        )

    @classmethod
    def source(cls, record: CommitRecord) -> object:
        return record["fingerprint"], record["segments"]
