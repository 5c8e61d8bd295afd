"""Stage `spotting`: reads the text in the pictures of rows that survive their caption.

Its units are pieces of caption units. What was read stays: a preset that lets more rows through adds a generation of
records to the unit, and a preset that lets fewer through finds all it needs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from filters.presets import Preset, load_preset
from filters.spotting.pictures import BadPicture
from filters.spotting.spotter import SpotterSettings, Spotting, TextSpotter
from pipelines.commit import TableFile, publish_json, read_json, retract
from pipelines.datasets import Dataset
from pipelines.decisions import KEPT, judge_captions
from pipelines.layout import Layout
from pipelines.manifests import MissingPicture, Span, UnreadableFile, read_pictures
from pipelines.plan import load_plan
from pipelines.progress import Heartbeat
from pipelines.storage import read_table

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
    ]
)
"""One row per picture asked for: `status` is ok, or why there is no reading; boxes are four corners (x, y) in pixels of
the original."""


def all_rows(preset: Preset) -> str:
    """Names the rows that are read where captions decide nothing: all with a caption of a length that the preset
    takes."""
    return f"all-{preset.captions.max_chars}"


def survivors(preset: Preset, annotations: str) -> str:
    """Names the rows that survive a preset's caption rules, given the fingerprint of the annotations."""
    return f"{preset.captions_fingerprint}-{annotations}"


def piece_name(unit: str, piece: int) -> str:
    """Name of a picture unit."""
    return f"{unit}.{piece:04d}"


def generation_name(piece: str, generation: int) -> str:
    """Name of the file of one pass over a picture unit."""
    return f"{piece}.g{generation}"


def load_records(layout: Layout, unit: str, pieces: int) -> pa.Table:
    """All spotting records of a caption unit, by ordinal."""
    tables = []
    for piece in range(pieces):
        name = piece_name(unit, piece)
        record = read_json(layout.commit("spotting", name))
        for generation in range(record["generations"] if record else 0):
            tables.append(read_table(layout.data("spotting", generation_name(name, generation))))
    return pa.concat_tables(tables).sort_by("ordinal") if tables else SCHEMA.empty_table()


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
    def _presets(self) -> list[Preset]:
        return [self.preset, *map(load_preset, self.preset.foresee)]

    @property
    def covers(self) -> set[str]:
        """Which rows a finished unit holds: the survivors of these caption rules."""
        if not self.captions_decide:
            return {all_rows(self.preset)}
        return {survivors(preset, self.annotations) for preset in self._presets}

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
        parent, piece = unit.rsplit(".", 1)
        spans, rows = self._plan
        first = int(piece) * rows
        began, heartbeat = time.time(), Heartbeat(self.layout.progress(self.name, unit))
        record = read_json(self.layout.commit(self.name, unit))
        if record is None or record["fingerprint"] != self.fingerprint:
            retract(self.layout.commit(self.name, unit))
            record = {
                "unit": unit,
                "fingerprint": self.fingerprint,
                "generations": 0,
                "covers": [],
                "pictures": 0,
                "seconds": 0.0,
            }
        wanted = self._missing(parent, unit, first, first + rows, record["generations"])
        if wanted:
            with TableFile(self.layout.data(self.name, generation_name(unit, record["generations"])), SCHEMA) as out:
                self._read_pictures(spans[parent], wanted, out, heartbeat)
            record["generations"] += 1
            record["pictures"] += len(wanted)
        record["covers"] = sorted({*record["covers"], *self.covers})
        record["seconds"] = round(record["seconds"] + time.time() - began, 3)
        publish_json(self.layout.commit(self.name, unit), record)
        heartbeat.end()

    def _missing(self, parent: str, unit: str, first: int, stop: int, generations: int) -> list[int]:
        """Ordinals of surviving rows in [first, stop) whose picture was not read yet."""
        bounds = [("ordinal", ">=", first), ("ordinal", "<", stop)]
        columns = None if self.captions_decide else ["ordinal", "caption"]
        rows = read_table(self.layout.data("captions", parent), filters=bounds, columns=columns)
        survive = np.zeros(rows.num_rows, bool)
        for preset in self._presets if self.captions_decide else [self.preset]:
            survive |= judge_captions(rows, preset, self.captions_decide).reasons == KEPT
        wanted = np.asarray(rows["ordinal"])[survive]
        for generation in range(generations):
            done = read_table(self.layout.data(self.name, generation_name(unit, generation)), columns=["ordinal"])
            wanted = wanted[~np.isin(wanted, np.asarray(done["ordinal"]))]
        return [int(ordinal) for ordinal in wanted]

    def _read_pictures(self, span: Span, ordinals: list[int], out: TableFile, heartbeat: Heartbeat) -> None:
        rows: list[dict[str, Any]] = []
        done = 0
        try:
            for ordinal, picture in read_pictures(span, self.dataset, np.array(ordinals, np.int64)):
                if isinstance(picture, MissingPicture):
                    rows.append(_no_reading(ordinal, picture.reason, picture.message))
                else:
                    rows.append(_reading(ordinal, next(self._spotter.spot([picture]))))
                done += 1
                if len(rows) >= BATCH:
                    out.write(pa.Table.from_pylist(rows, SCHEMA))
                    rows = []
                heartbeat.beat(done)
        except UnreadableFile as error:  # the pages of a picture column may be broken where the captions' are not
            rows += [_no_reading(ordinal, "picture_unreadable", error.message) for ordinal in ordinals[done:]]
        out.write(pa.Table.from_pylist(rows, SCHEMA))


def _reading(ordinal: int, result: Spotting | BadPicture) -> dict[str, Any]:
    if isinstance(result, BadPicture):
        return _no_reading(ordinal, str(result.reason), result.message)
    lines = [{"text": s.text, "score": s.score, "box": [list(corner) for corner in s.box]} for s in result.spotted]
    return {
        "ordinal": ordinal,
        "status": "ok",
        "message": "",
        "width": result.width,
        "height": result.height,
        "spotted": lines,
    }


def _no_reading(ordinal: int, status: str, message: str) -> dict[str, Any]:
    return {"ordinal": ordinal, "status": status, "message": message, "width": None, "height": None, "spotted": None}
