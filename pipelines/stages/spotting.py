"""Stage `spotting`: reads the text in the images of rows that survive their caption.

Its units are image units. Where images are downloaded after they were asked for, what is
said of them in a later generation holds.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.naming import counted
from open_diht.filters.spotting.decode import UnreadableImage
from open_diht.filters.spotting.spotter import SpotterSettings, Spotting, TextSpotter
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Stage
from open_diht.pipelines.manifests import MissingImage, UnreadableFile
from open_diht.pipelines.stages.captions import survivors_of
from open_diht.pipelines.stages.cascade import NOT_AT_HAND
from open_diht.pipelines.stages.downloads import (
    STAGE,
    downloaded_state,
    images_at_hand,
    images_of,
    last_of_each,
    original_sizes,
    state_of,
)
from open_diht.pipelines.stages.generations import GenerationAnnotator, GenerationStage
from open_diht.pipelines.stages.survivors import Survivors
from open_diht.pipelines.store.commit import Garbled, TableFile, read_json
from open_diht.pipelines.store.fingerprints import fingerprint_of
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import generation_name, image_unit_name, unit_of
from open_diht.pipelines.store.storage import StorePath, read_table

BATCH = 64
LINE = pa.struct([("text", pa.string()), ("score", pa.float32()), ("box", pa.list_(pa.list_(pa.float32())))])
SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("status", pa.string()),
        ("message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("spotted", pa.list_(LINE)),
        ("sha256", pa.binary(32)),
        ("bytes", pa.int64()),
    ]
)
"""One row per image asked for: `status` is ok, or why there is no reading; boxes are four corners (x, y) in pixels of
the original; `sha256` and `bytes` are of the image as stored, null where it is not at hand."""

Asked = tuple[int, bytes | MissingImage, tuple[int, int] | None]
"""A row; the file of its image, or why there is none; width and height of the image before the download has reduced
it."""


def load_records(layout: Layout, unit: str, image_units: Iterable[int]) -> pa.Table:
    """The spotting records of a caption unit, of its image units with these numbers, by ordinal."""
    tables = []
    for image_unit in image_units:
        name = image_unit_name(unit, image_unit)
        path = layout.commit("spotting", name)
        record = read_json(path)
        if record is not None and not (isinstance(record, dict) and isinstance(record.get("generations"), int)):
            raise Garbled(f"{path} is no commit record; remove it, and the same command makes it again")
        for generation in range(record["generations"] if record else 0):
            tables.append(read_table(layout.data("spotting", generation_name(name, generation))))
    return last_of_each(pa.concat_tables([SCHEMA.empty_table(), *tables]))


@dataclass
class SpottingStage(GenerationStage):
    """See `GenerationStage`."""

    layout: Layout
    dataset: Dataset
    fingerprint: str
    """Of engine, models and settings."""
    settings: SpotterSettings
    survivors: Survivors
    """The rows whose images are read."""
    name: str = field(default="spotting", init=False)
    counted = "images"
    noun = "rows"  # some have no image
    hints = MappingProxyType({"min_ram": "4GB"})  # OCR runs in a child beside each worker process
    nothing: ClassVar[dict[str, Any]] = {"downloads": None, "images": 0}

    def setup(self) -> None:
        self._spotter = TextSpotter(self.settings)

    def teardown(self) -> None:
        self._spotter.close()

    def candidates(self, unit: str) -> NDArray[np.int64]:
        return self.survivors.ordinals(self.layout, unit, self._plan.image_rows)

    def seen(self, unit: str, generation: str, record: dict[str, Any]) -> NDArray[np.int64]:
        done = read_table(self.layout.data(self.name, generation), columns=["ordinal", "status"])
        if record["downloads"] != downloaded_state(self.layout, unit):  # those that were not at hand may be now
            done = done.filter(pc.not_equal(done["status"], NOT_AT_HAND))
        return np.asarray(done["ordinal"])

    def current(self, unit: str, record: dict[str, Any] | None) -> dict[str, Any] | None:
        known = super().current(unit, record)
        replaced = known and _replaced(known["downloads"], downloaded_state(self.layout, unit))
        # The same relative path is another file below another folder.
        moved = known and known["root"] != self.dataset.images_root
        return None if replaced or moved else known

    def add(
        self, unit: str, name: str, ordinals: NDArray[np.int64], record: dict[str, Any], heartbeat: Heartbeat
    ) -> list[StorePath]:
        path = self.layout.data(self.name, name)
        with TableFile(path, SCHEMA) as out:
            self._read_images(unit, ordinals, out, heartbeat)
        record["images"] += len(ordinals)
        return [path]

    def cover(self, unit: str, record: dict[str, Any]) -> None:
        record["covers"] = sorted({*record["covers"], *self.survivors.covers})
        record["downloads"] = downloaded_state(self.layout, unit)
        record["root"] = self.dataset.images_root

    def _read_images(self, unit: str, ordinals: NDArray[np.int64], out: TableFile, heartbeat: Heartbeat) -> None:
        parent = unit_of(unit)
        plan = self._plan
        images = images_of(self.layout, parent, plan.span(parent), plan.image_rows, self.dataset, ordinals)
        sizes = original_sizes(self.layout, unit)
        broken: list[UnreadableFile] = []

        def asked() -> Iterator[Asked]:
            try:
                for ordinal, image in images:
                    yield ordinal, image, sizes.get(ordinal)
            except UnreadableFile as error:  # the pages of an image column may be broken where the captions' are not
                broken.append(error)

        rows: list[dict[str, Any]] = []
        done = 0
        for row in read_texts(self._spotter, asked()):
            rows.append(row)
            done += 1
            if len(rows) >= BATCH:
                out.write(pa.Table.from_pylist(rows, SCHEMA))
                rows = []
            heartbeat.beat(done)
        for error in broken:
            rest = ordinals[done:].tolist()
            rows += [_no_reading(ordinal, "image_unreadable", error.message) for ordinal in rest]
        out.write(pa.Table.from_pylist(rows, SCHEMA))


class SpottingAnnotation(GenerationAnnotator):
    """Text is read in the images of rows that pass their captions."""

    name = "spotting"

    def stage(self) -> SpottingStage:
        settings, work = self.settings, self.work
        at_hand = images_at_hand(work.layout, work.plan.images)
        spotter = TextSpotter(settings.spotter)
        known = work.models[self.name] = spotter.provenance() if at_hand else {}
        return SpottingStage(
            work.layout,
            settings.dataset,
            fingerprint_of(known, asdict(spotter.settings)),
            spotter.settings,
            survivors_of(settings),
        )

    def units(self, units: Sequence[str]) -> list[str]:
        names, with_urls = super().units(units), self.work.plan.downloadable()
        records = self.work.records(STAGE, [name for name in names if unit_of(name) in with_urls])
        self._downloads = {name: state_of(record) for name, record in records}  # many at once, not one by one
        return names

    def is_done(self, stage: Stage, unit: str, record: dict[str, Any] | None) -> bool:
        assert isinstance(stage, SpottingStage)
        if record is None or not stage.survivors.are_covered(record, stage.fingerprint):
            return False
        same_root = record["root"] == stage.dataset.images_root
        return same_root and bool(record["downloads"] == self._downloads.get(unit))

    def announce(self, stage: Stage, todo: Sequence[str], records: Sequence[dict[str, Any]], of: int) -> str | None:
        assert isinstance(stage, SpottingStage)
        if moved := sum(record["root"] != stage.dataset.images_root for record in records):
            return f"{moved:,} of {counted(of, 'unit')} will be read again: --images-root names another folder"
        if outdated := sum(record["fingerprint"] != stage.fingerprint for record in records):
            return f"read anew: {outdated:,} of {counted(of, 'unit')}, read by another version, engine or setting"
        if not records or self.work.engine.seconds.get(STAGE):
            return None
        return (
            "other rows may get through than when images were read (another preset, captions annotated anew); only "
            "images that no run has read are read"
        )

    def source(self, record: dict[str, Any]) -> Any:
        return record["fingerprint"], record["generations"]


def _replaced(before: list[Any] | None, now: list[Any] | None) -> bool:
    """Whether images that were read were downloaded anew since; another generation leaves them as they are."""
    if before is None or now is None:
        return False
    return before[0] != now[0] or before[1] > now[1] or (before[1] == now[1] and before[2:] != now[2:])


def read_texts(spotter: TextSpotter, asked: Iterable[Asked]) -> Iterator[dict[str, Any]]:
    """Rows of `SCHEMA`, in order: what each image says, or why it could not be read. Few images are in memory at a
    time, as many as the spotter takes in one go."""
    waiting: deque[tuple[int, MissingImage | dict[str, Any], tuple[int, int] | None]] = deque()

    def at_hand() -> Iterator[bytes]:
        for ordinal, image, original in asked:
            if isinstance(image, MissingImage):
                waiting.append((ordinal, image, original))
                continue
            given = {"sha256": hashlib.sha256(image).digest(), "bytes": len(image)}
            waiting.append((ordinal, given, original))
            yield image

    def absent() -> Iterator[dict[str, Any]]:
        while waiting and isinstance(missing := waiting[0][1], MissingImage):
            yield _no_reading(waiting.popleft()[0], missing.reason, missing.message)

    for result in spotter.spot(at_hand()):
        yield from absent()
        ordinal, given, original = waiting.popleft()
        assert isinstance(given, dict)
        yield _reading(ordinal, result, original) | given
    yield from absent()


def _reading(ordinal: int, result: Spotting | UnreadableImage, original: tuple[int, int] | None) -> dict[str, Any]:
    if isinstance(result, UnreadableImage):
        return _no_reading(ordinal, str(result.reason), result.message)
    width, height = original or (result.width, result.height)
    x, y = width / result.width, height / result.height
    lines = [
        {"text": s.text, "score": s.score, "box": [[corner[0] * x, corner[1] * y] for corner in s.box]}
        for s in result.spotted
    ]
    return {
        "ordinal": ordinal,
        "status": "ok",
        "message": "",
        "width": width,
        "height": height,
        "spotted": lines,
        "sha256": None,
        "bytes": None,
    }


def _no_reading(ordinal: int, status: str, message: str) -> dict[str, Any]:
    empty = dict.fromkeys(name for name in SCHEMA.names if name not in ("ordinal", "status", "message"))
    return {"ordinal": ordinal, "status": status, "message": message, **empty}
