"""Stage `spotting`: read the text in the images of rows whose captions pass.

Its units are image units. If a row was read again because its image has been downloaded, its last
record counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.naming import counted
from open_diht.filters.spotting.spotter import SpotterSettings, TextSpotter
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests import UnreadableFile
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.captions import survivors_of
from open_diht.pipelines.stages.cascade import NOT_AT_HAND
from open_diht.pipelines.stages.images import (
    DOWNLOAD,
    images_at_hand,
    images_of,
    last_of_each,
    original_sizes,
)
from open_diht.pipelines.stages.rows import RECORD, Asked, Reading, no_reading, read_texts
from open_diht.pipelines.stages.segments import SegmentAnnotator, Survivors
from open_diht.pipelines.store.commit import CorruptRecord, TableFile, read_json
from open_diht.pipelines.store.fingerprints import fingerprint_of
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import image_unit_name, segment_name, unit_of
from open_diht.pipelines.store.records import CommitRecord
from open_diht.pipelines.store.storage import StorePath, read_table

BATCH = 64


def load_records(layout: Layout, unit: str, image_units: Iterable[int]) -> pa.Table:
    """Return the spotting records of a caption unit, by ordinal.

    Args:
        layout: the output folder.
        unit: name of the caption unit.
        image_units: numbers of the image units to read.

    Raises:
        CorruptRecord: a commit record is corrupt.
    """
    tables = []
    for image_unit in image_units:
        name = image_unit_name(unit, image_unit)
        path = layout.commit("spotting", name)
        record = read_json(path)
        if record is not None and not (isinstance(record, dict) and isinstance(record.get("segments"), int)):
            raise CorruptRecord(f"{path} is not a commit record; remove it, and run the same command to write it again")
        for segment in range(record["segments"] if record else 0):
            tables.append(read_table(layout.data("spotting", segment_name(name, segment))))
    return last_of_each(pa.concat_tables([RECORD.empty_table(), *tables]))


@dataclass
class SpottingStage(SegmentAnnotator):
    """See `SegmentStage`. Reads text in the images of rows whose captions pass."""

    layout: Layout
    dataset: Dataset
    fingerprint: str
    """Fingerprint of engine, models and settings; of the settings alone if there are no images."""
    settings: SpotterSettings
    survivors: Survivors
    """The rows whose images are read."""
    name: str = field(default="spotting", init=False)
    counted = "images"
    noun = "rows"  # some have no image
    hints = MappingProxyType({"min_ram": "4GB"})  # OCR runs in a child of each worker process
    nothing: ClassVar[CommitRecord] = {"downloads": None, "images": 0}

    @classmethod
    def of_run(cls, settings: RunSettings, work: Work) -> Self:
        spotter = TextSpotter(settings.spotter)
        known = work.models[cls.name] = spotter.provenance() if images_at_hand(work.layout, work.plan.images) else {}
        fingerprint = fingerprint_of(known, asdict(spotter.settings))
        return cls(work.layout, settings.dataset, fingerprint, spotter.settings, survivors_of(settings))

    def announce(self, work: Work, todo: Sequence[str], records: Sequence[CommitRecord], of: int) -> str | None:
        if moved := sum(record["root"] != self.dataset.images_root for record in records):
            return f"{moved:,} of {counted(of, 'unit')} will be read again: --images-root has changed"
        if outdated := sum(record["fingerprint"] != self.fingerprint for record in records):
            return (
                f"read again: {outdated:,} of {counted(of, 'unit')}, read by another version, engine or setting, or "
                "before there were images"
            )
        if not records or work.seconds.get(DOWNLOAD):
            return None
        return (
            "the preset, STAGES, the caption annotations or the downloads changed; only images not read before, or "
            "downloaded again since, will be read"
        )

    def setup(self) -> None:
        self._spotter = TextSpotter(self.settings)

    def teardown(self) -> None:
        self._spotter.close()

    def helpers(self) -> Sequence[int]:
        return [self._spotter.pid] if self._spotter.pid else []

    def candidates(self, unit: str) -> NDArray[np.int64]:
        return self.survivors.ordinals(self.layout, unit, self._plan.image_rows)

    def covered(self, unit: str) -> set[str]:
        return self.survivors.covers

    def needed(self, unit: str) -> set[str]:
        return self.survivors.needed

    def current(self, unit: str, record: CommitRecord | None) -> CommitRecord | None:
        known = super().current(unit, record)
        if known is None or known["root"] != self.dataset.images_root:  # relative paths then mean other files
            return None
        before, now = known["downloads"], self.downloads(unit)
        if before is None or now is None:
            return known
        # A further segment of downloads does not change the images that were read.
        replaced = before[0] != now[0] or before[1] > now[1] or (before[1] == now[1] and before[2:] != now[2:])
        return None if replaced else known

    def is_done(self, unit: str, record: CommitRecord | None) -> bool:
        return super().is_done(unit, record) and bool(record and record["downloads"] == self.downloads(unit))

    def seen(self, unit: str, segment: str, record: CommitRecord) -> NDArray[np.int64]:
        done = read_table(self.layout.data(self.name, segment), columns=["ordinal", "status"])
        if record["downloads"] != self.downloads(unit):  # images that were not available may be now
            done = done.filter(pc.not_equal(done["status"], NOT_AT_HAND))
        return np.asarray(done["ordinal"])

    def note(self, unit: str, record: CommitRecord) -> None:
        record["downloads"] = self.downloads(unit)
        record["root"] = self.dataset.images_root

    def add(
        self, unit: str, name: str, ordinals: NDArray[np.int64], record: CommitRecord, heartbeat: Heartbeat
    ) -> list[StorePath]:
        parent, plan, path = unit_of(unit), self._plan, self.layout.data(self.name, name)
        images = images_of(self.layout, parent, plan.span(parent), plan.image_rows, self.dataset, ordinals)
        sizes = original_sizes(self.layout, unit)
        broken: list[UnreadableFile] = []

        def asked() -> Iterator[Asked]:
            try:
                for ordinal, image in images:
                    yield ordinal, image, sizes.get(ordinal)
            except UnreadableFile as error:  # images may be damaged while the captions are intact
                broken.append(error)

        rows: list[Reading] = []
        with TableFile(path, RECORD) as out:
            for done, row in enumerate(read_texts(self._spotter, asked()), 1):
                rows.append(row)
                if len(rows) >= BATCH:
                    out.write(pa.Table.from_pylist(rows, RECORD))
                    rows = []
                heartbeat.beat(done)
            for error in broken:
                rest = ordinals[out.rows + len(rows) :].tolist()
                rows += [no_reading(ordinal, "image_unreadable", error.message) for ordinal in rest]
            out.write(pa.Table.from_pylist(rows, RECORD))
        record["images"] += len(ordinals)
        return [path]
