"""Stage `captions`: manifest rows to annotations. Reads a unit's rows, annotates their captions, sets broken rows
aside."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from filters.captions.annotate import SCHEMA, CaptionAnnotator
from pipelines.commit import TableFile, retract
from pipelines.datasets import Dataset
from pipelines.layout import Layout
from pipelines.manifests import BadRow, Batch, UnreadableFile, read
from pipelines.plan import Plan, Unit, load_plan
from pipelines.progress import Heartbeat
from pipelines.records import publish_record

BATCH_ROWS = 2_000

ROW = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("uid", pa.string()),
        ("pair", pa.binary(16)),
        ("has_url", pa.bool_()),
        ("caption", pa.string()),
    ]
)
"""`pair` is equal for equal pairs, see `Batch.pairs`."""
DEAD = pa.schema(
    [
        ("file", pa.string()),
        ("unit", pa.string()),
        ("ordinal", pa.int64()),
        ("uid", pa.string()),
        ("caption", pa.string()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("raw", pa.binary()),
    ]
)
"""A dead letter: where the row was (`ordinal` counts the rows of its unit; null where a whole unit or file was lost),
what was wrong, and the raw row as far as it was read."""


@dataclass
class CaptionStage:
    """See `Stage`."""

    layout: Layout
    dataset: Dataset
    fingerprint: str
    """Of model, code and weights; part of the commit record."""
    annotate: bool = True
    """False where no caption filter is asked for: rows get identity, no parse."""
    name: str = field(default="captions", init=False)

    def setup(self) -> None:
        self._annotator = CaptionAnnotator() if self.annotate else None

    def teardown(self) -> None:
        self._annotator = None

    @cached_property
    def _units(self) -> dict[str, Unit]:
        plan: Plan = load_plan(self.layout.plan)
        return {unit.name: unit for unit in plan.units}

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def process(self, unit: str) -> None:
        span, began = self._units[unit].span, time.time()
        heartbeat = Heartbeat(self.layout.progress(self.name, unit))
        heartbeat.expect(span.rows)
        retract(self.layout.commit(self.name, unit))
        rows, own_uids, without_url, broken = 0, 0, 0, None
        schema = pa.schema([*ROW, *SCHEMA]) if self.annotate else ROW
        with TableFile(self.layout.data(self.name, unit), schema) as good, TableFile(self.layout.dead(unit)) as dead:
            try:
                for batch in read(span, self.dataset, batch_rows=BATCH_ROWS):
                    good.write(self._rows(batch))
                    if batch.bad:
                        dead.write(_dead_letters(batch.bad, span.path, unit))
                    rows += batch.rows
                    own_uids += sum(batch.own_uids)
                    without_url += batch.urls.count(None)
                    heartbeat.beat(rows)
            except UnreadableFile as error:  # the rest of the unit is lost; what was read before stays
                broken = {"path": error.path, "error": error.error, "message": error.message}
        if span.exact and broken is None and rows != span.rows:
            raise RuntimeError(f"{span.path}: {rows:,} rows were read where the plan counts {span.rows:,}")
        record = {
            "unit": unit,
            "fingerprint": self.fingerprint,
            "annotated": self.annotate,
            "rows": rows,
            "good": good.rows,
            "dead": dead.rows,
            "own_uids": own_uids,
            "without_url": without_url,
            "broken": broken,
            "seconds": round(time.time() - began, 3),
        }
        files = (self.layout.data(self.name, unit), self.layout.dead(unit))
        publish_record(self.layout, self.layout.commit(self.name, unit), record, files)
        heartbeat.end()

    def _rows(self, batch: Batch) -> pa.Table:
        columns = {
            "ordinal": batch.ordinals,
            "uid": batch.uids,
            "pair": [None if pair is None else bytes.fromhex(pair) for pair in batch.pairs],
            "has_url": [url is not None for url in batch.urls],
            "caption": batch.captions,
        }
        table = pa.table({name: pa.array(values, ROW.field(name).type) for name, values in columns.items()})
        if self._annotator is None:
            return table
        annotations = self._annotator.annotate([caption or "" for caption in batch.captions])
        return pa.table([*table.columns, *annotations.columns], schema=pa.schema([*ROW, *SCHEMA]))


def _dead_letters(bad: list[BadRow], path: str, unit: str) -> pa.Table:
    return pa.table(
        {
            "file": [path] * len(bad),
            "unit": [unit] * len(bad),
            "ordinal": np.array([row.ordinal for row in bad], np.int64),
            "uid": [None] * len(bad),
            "caption": [None] * len(bad),
            "stage": ["manifest"] * len(bad),
            "error": [row.error for row in bad],
            "message": [row.message for row in bad],
            "raw": [row.raw for row in bad],
        },
        schema=DEAD,
    )
