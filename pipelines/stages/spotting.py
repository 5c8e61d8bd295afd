"""Stage `spotting`: reads the text in the pictures of rows that survive their caption.

Its units are pieces of caption units, see pieces.py. Where pictures are downloaded after they were asked for, what is
said of them in a later generation holds.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.presets import Preset
from filters.spotting.pictures import BadPicture
from filters.spotting.spotter import SpotterSettings, Spotting, TextSpotter
from pipelines.commit import TableFile, read_json, retract
from pipelines.datasets import Dataset
from pipelines.decisions import NOT_AT_HAND
from pipelines.downloads import downloaded_state, original_sizes, pictures_of
from pipelines.layout import Layout
from pipelines.manifests import MissingPicture, Span, UnreadableFile
from pipelines.plan import load_plan
from pipelines.progress import Heartbeat
from pipelines.records import publish_record
from pipelines.stages.pieces import Survivors, generation_name, piece_name, unit_of
from pipelines.storage import Place, read_table

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
"""One row per picture asked for: `status` is ok, or why there is no reading; boxes are four corners (x, y) in pixels of
the original; `sha256` and `bytes` are of the picture as stored, null where it is not at hand."""


def load_records(layout: Layout, unit: str, pieces: int) -> pa.Table:
    """All spotting records of a caption unit, by ordinal."""
    tables = []
    for piece in range(pieces):
        name = piece_name(unit, piece)
        record = read_json(layout.commit("spotting", name))
        for generation in range(record["generations"] if record else 0):
            tables.append(read_table(layout.data("spotting", generation_name(name, generation))))
    # Records of earlier versions lack the last columns.
    records = pa.concat_tables([SCHEMA.empty_table(), *tables], promote_options="default")
    ordinals = np.asarray(records["ordinal"])
    order = np.argsort(ordinals, kind="stable")
    is_last = ordinals[order] != np.append(ordinals[order][1:], -1)  # of equal ones the last generation's
    return records.take(pa.array(order[is_last]))


@dataclass
class SpottingStage:
    """See `Stage`."""

    layout: Layout
    dataset: Dataset
    preset: Preset
    captions_decide: bool
    """False where the captions stage is not asked for: every picture is read."""
    fingerprint: str
    """Of engine, models and settings; part of the commit record."""
    settings: SpotterSettings
    annotations: str
    """Fingerprint of the caption annotations: other annotations let other rows through."""
    name: str = field(default="spotting", init=False)

    @cached_property
    def survivors(self) -> Survivors:
        """The rows whose pictures are read."""
        return Survivors(self.preset, self.captions_decide, self.annotations)

    def setup(self) -> None:
        self._spotter = TextSpotter(self.settings)

    def teardown(self) -> None:
        self._spotter.close()

    @cached_property
    def _plan(self) -> tuple[dict[str, Span], int]:
        plan = load_plan(self.layout.plan)
        return {unit.name: unit.span for unit in plan.units}, plan.picture_rows

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def process(self, unit: str) -> None:
        began, heartbeat = time.time(), Heartbeat(self.layout.progress(self.name, unit))
        record, downloads = read_json(self.layout.commit(self.name, unit)), downloaded_state(self.layout, unit)
        wanted = self.wanted(unit, record)
        heartbeat.expect(len(wanted))
        if not self._goes_on(record, downloads):
            retract(self.layout.commit(self.name, unit))
            record = {
                "unit": unit,
                "fingerprint": self.fingerprint,
                "generations": 0,
                "covers": [],
                "downloads": None,
                "pictures": 0,
                "seconds": 0.0,
            }
        files: list[Place] = []
        if len(wanted):
            files.append(self.layout.data(self.name, generation_name(unit, record["generations"])))
            with TableFile(files[0], SCHEMA) as out:
                self._read_pictures(unit, wanted, out, heartbeat)
            record["generations"] += 1
            record["pictures"] += len(wanted)
        record["covers"] = sorted({*record["covers"], *self.survivors.covers})
        record["downloads"] = downloads
        record["seconds"] = round(record["seconds"] + time.time() - began, 3)
        publish_record(self.layout, self.layout.commit(self.name, unit), record, files)
        heartbeat.end()

    def wanted(self, unit: str, record: dict[str, Any] | None) -> NDArray[np.int64]:
        """Ordinals of the rows whose picture is still to be read, given the unit's commit record."""
        parent, piece = unit.rsplit(".", 1)
        rows = self._plan[1]
        wanted = self.survivors.ordinals(self.layout, parent, int(piece) * rows, (int(piece) + 1) * rows)
        downloads = downloaded_state(self.layout, unit)
        if record is None or not self._goes_on(record, downloads):
            return wanted
        for generation in range(record["generations"]):
            name = generation_name(unit, generation)
            done = read_table(self.layout.data(self.name, name), columns=["ordinal", "status"])
            if record["downloads"] != downloads:  # those that were not at hand may be now
                done = done.filter(pc.not_equal(done["status"], NOT_AT_HAND))
            wanted = wanted[~np.isin(wanted, np.asarray(done["ordinal"]))]
        return wanted

    def _goes_on(self, record: dict[str, Any] | None, downloads: list[Any] | None) -> bool:
        """Whether what a commit record vouches for stays as it is."""
        if record is None or record["fingerprint"] != self.fingerprint:
            return False
        return not _replaced(record["downloads"], downloads)

    def _read_pictures(self, unit: str, ordinals: NDArray[np.int64], out: TableFile, heartbeat: Heartbeat) -> None:
        parent = unit_of(unit)
        spans, picture_rows = self._plan
        pictures = pictures_of(self.layout, parent, spans[parent], picture_rows, self.dataset, ordinals)
        sizes = original_sizes(self.layout, unit)
        rows: list[dict[str, Any]] = []
        done = 0
        try:
            for ordinal, picture in pictures:
                if isinstance(picture, MissingPicture):
                    rows.append(_no_reading(ordinal, picture.reason, picture.message))
                else:
                    given = {"sha256": hashlib.sha256(picture).digest(), "bytes": len(picture)}
                    reading = _reading(ordinal, next(self._spotter.spot([picture])), sizes.get(ordinal))
                    rows.append(reading | given)
                done += 1
                if len(rows) >= BATCH:
                    out.write(pa.Table.from_pylist(rows, SCHEMA))
                    rows = []
                heartbeat.beat(done)
        except UnreadableFile as error:  # the pages of a picture column may be broken where the captions' are not
            rest = ordinals[done:].tolist()
            rows += [_no_reading(ordinal, "picture_unreadable", error.message) for ordinal in rest]
        out.write(pa.Table.from_pylist(rows, SCHEMA))


def _replaced(before: list[Any] | None, now: list[Any] | None) -> bool:
    """Whether pictures that were read were downloaded anew since; another generation leaves them as they are."""
    if before is None or now is None:
        return False
    return before[0] != now[0] or before[1] > now[1] or (before[1] == now[1] and before[2:] != now[2:])


def _reading(ordinal: int, result: Spotting | BadPicture, original: tuple[int, int] | None) -> dict[str, Any]:
    """A record. `original`: width and height of the picture before the download has reduced it."""
    if isinstance(result, BadPicture):
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
