"""Stage `spotting`: read the text in the images of rows whose captions pass.

Its units are image units. If a row was read again because its image has been downloaded, its last
record counts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.naming import counted
from open_diht.common.spelling import spelled_option
from open_diht.filters.cascade import NOT_AT_HAND, RECORD
from open_diht.filters.spotting.spotter import SpotterError, SpotterSettings, TextSpotter
from open_diht.filters.spotting.weights import WeightsDamaged, WeightsMissing, download_and_install
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.captions import wanted_rows
from open_diht.pipelines.stages.images import DOWNLOAD, images_at_hand, last_of_each, original_sizes
from open_diht.pipelines.stages.rows import Reading, read_texts
from open_diht.pipelines.stages.segments import SegmentAnnotator, WantedRows, segments_of
from open_diht.pipelines.store.commit import TableFile
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, fingerprint_of
from open_diht.pipelines.store.storage import StorePath, read_table

BATCH = 64  # readings in memory before they are written; an image may hold thousands of boxes


def load_records(layout: Layout, unit: str, image_units: Iterable[int]) -> pa.Table:
    """Return the spotting records of a caption unit, by ordinal. Raise CorruptRecord if a commit
    record is corrupt."""
    tables = [read_table(path) for path in segments_of(layout, "spotting", unit, image_units)]
    return last_of_each(pa.concat_tables([RECORD.empty_table(), *tables]))


def readings_fingerprint(settings: SpotterSettings, known: Mapping[str, str]) -> str:
    """Return the fingerprint of what is read with these settings. `known` is the spotter's
    provenance."""
    facts = asdict(settings)
    del facts["effort"]  # the settings that it stands for determine the results
    if facts["closer"] is None:
        del facts["closer"]  # outputs of versions without this setting stay valid
    return fingerprint_of(known, facts)


@dataclass
class SpottingStage(SegmentAnnotator):
    """See `SegmentStage`. This stage reads text in the images of rows whose captions pass."""

    layout: Layout
    dataset: Dataset
    fingerprint: str
    """Fingerprint of engine, models and settings, or of the settings alone if there are no
    images."""
    settings: SpotterSettings
    survivors: WantedRows
    """The rows whose images are read."""
    name: str = field(default="spotting", init=False)
    counted = "images"
    noun = "rows"  # some have no image
    hints = MappingProxyType({"min_ram": "4GB"})  # OCR runs in a child of each worker process
    nothing: ClassVar[CommitRecord] = {"downloads": None, "images": 0}

    @classmethod
    def of_run(cls, settings: RunSettings, work: Work) -> Self:
        spotter = TextSpotter(settings.ocr)
        known = spotter.provenance() if images_at_hand(work.layout, work.plan.images) else {}
        work.models[cls.name] = {"effort": spotter.settings.effort, **known} if known else {}
        fingerprint = readings_fingerprint(spotter.settings, known)
        return cls(
            work.layout, settings.dataset, fingerprint, spotter.settings, wanted_rows(settings)
        )

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        """If the run will read images, check that OCR works, and download missing weights unless a
        setting names their folder. Only the driver does this; workers have weights of their own or
        report which ones are missing.
        """
        super().check(settings, plan, say)
        if plan is None or "spotting" not in settings.stages:
            return
        if not images_at_hand(Layout(settings.output), plan.images or DOWNLOAD in settings.stages):
            return
        spotter = TextSpotter(settings.ocr)
        try:
            try:
                spotter.check_installed()
            except WeightsMissing:
                if settings.ocr.models:
                    raise  # the user's own folder
                download_and_install(say=say)
                spotter.check_installed()
        except (SpotterError, WeightsMissing, WeightsDamaged) as error:
            raise WrongUse(
                f"{error}. Or leave the stage out:"
                f" {spelled_option('stages', 'captions,download,export')}"
            ) from error

    def announce(
        self, work: Work, todo: Sequence[str], records: Sequence[CommitRecord], of: int
    ) -> str | None:
        if moved := sum(record["root"] != self.dataset.images_root for record in records):
            return (
                f"{moved:,} of {counted(of, 'unit')} will be read again: --images-root has changed"
            )
        if outdated := [
            record["images"] for record in records if record["fingerprint"] != self.fingerprint
        ]:
            return (
                f"read again: {counted(sum(outdated), 'image')} of {len(outdated):,} of"
                f" {counted(of, 'unit')}, read by another version, engine, effort or setting, or"
                " before there were images"
            )
        if not records or work.seconds.get(DOWNLOAD):
            return None
        return (
            "the preset, STAGES, the caption annotations or the downloads changed; only images not"
            " read before, or downloaded again since, will be read"
        )

    def setup(self) -> None:
        self._spotter = TextSpotter(self.settings)

    def teardown(self) -> None:
        self._spotter.close()

    def helpers(self) -> Sequence[int]:
        return [self._spotter.pid] if self._spotter.pid else []

    def current(self, unit: str, record: CommitRecord | None) -> CommitRecord | None:
        known = super().current(unit, record)
        if known is None or known["root"] != self.dataset.images_root:
            # Relative paths then mean other files.
            return None
        before = known["downloads"]
        now = self.downloads(unit)
        if before is None or now is None:
            return known
        # A further segment of downloads does not change the images that were read.
        replaced = (
            before[0] != now[0]
            or before[1] > now[1]
            or (before[1] == now[1] and before[2:] != now[2:])
        )
        return None if replaced else known

    def is_done(self, unit: str, record: CommitRecord | None) -> bool:
        return super().is_done(unit, record) and bool(
            record and record["downloads"] == self.downloads(unit)
        )

    def wanted(self, unit: str, known: CommitRecord | None) -> NDArray[np.int64]:
        wanted = self.candidates(unit)
        done = self.results(unit, known, "status")
        if known and known["downloads"] != self.downloads(unit):
            # Images that were not available may be now.
            done = done.filter(pc.not_equal(done["status"], NOT_AT_HAND))
        return wanted[~np.isin(wanted, done["ordinal"])]

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        said, files = super().process(unit, before, heartbeat)
        return {**said, "downloads": self.downloads(unit), "root": self.dataset.images_root}, files

    def add(
        self,
        unit: str,
        name: str,
        ordinals: NDArray[np.int64],
        record: CommitRecord,
        heartbeat: Heartbeat,
    ) -> list[StorePath]:
        path = self.layout.data(self.name, name)
        sizes = original_sizes(self.layout, unit)
        to_read = (
            (ordinal, image, sizes.get(ordinal)) for ordinal, image in self.images(unit, ordinals)
        )
        readings: list[Reading] = []
        with TableFile(path, RECORD) as out:
            for done, row in enumerate(read_texts(self._spotter, to_read), 1):
                readings.append(row)
                if len(readings) >= BATCH:
                    out.write(pa.Table.from_pylist(readings, RECORD))
                    readings = []
                heartbeat.beat(done)
            out.write(pa.Table.from_pylist(readings, RECORD))
        record["images"] += len(ordinals)
        return [path]
