"""The passes for the corrected score: choose the batches, then score each unit's rows against them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.score import NEG_CLIP_LOSS, NegativesRule
from open_diht.pipelines.engine.devices import Claim, gpus_of
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.stages.encoding import matrix
from open_diht.pipelines.stages.score.cliploss import Batch
from open_diht.pipelines.stages.score.rows import first_rows, rows_of
from open_diht.pipelines.stages.score.stage import IMAGES, TEXTS, stored_scores
from open_diht.pipelines.store.commit import TableFile, publish_table, read_json
from open_diht.pipelines.store.fingerprints import Fingerprints
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import row_groups

BATCHES = "score_batches"
"""Name of the stage and of its only unit."""
SCHEMA = pa.schema([("ordinal", pa.int64()), (NEG_CLIP_LOSS, pa.float32())])


@dataclass
class BatchStage(Stage):
    """See `Stage`. One unit: takes the first rows of all in the random order, a batch a row group. It reads the row
    groups in which they are, so at most all embeddings once; in memory are those of the batches."""

    layout: Layout
    rule: NegativesRule
    skip: frozenset[str]
    rows: int
    """That come to the rule, in all."""
    fingerprint: str
    name: str = field(default=BATCHES, init=False)
    part_of = "score"

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        units = [(number, one.name) for number, one in enumerate(self._plan.units) if one.name not in self.skip]
        size = min(self.rule.batch_size, self.rows)
        batches = min(self.rule.batches, self.rows // size) if size else 0
        chosen = first_rows(units, partial(rows_of, self.layout), size * batches, self.rows)
        with TableFile(self.layout.data(self.name, unit)) as out:
            if batches:
                images, texts = self._embeddings(dict(units), chosen)
                for first in range(0, len(chosen), size):
                    part = slice(first, first + size)
                    out.write(_table(chosen[part], images[part], texts[part]))
        return {"rows": len(chosen), "batches": batches}, [self.layout.data(self.name, unit)]

    def _embeddings(self, names: dict[int, str], chosen: NDArray[np.void]) -> tuple[NDArray[np.float16], ...]:
        found: list[NDArray[np.float16]] = []
        for number in np.unique(chosen["unit"]).tolist():
            places = np.flatnonzero(chosen["unit"] == number)
            mine = _embedded(
                self.layout, self._plan, names[number], np.sort(chosen["ordinal"][places].astype(np.int64))
            )
            order = np.argsort(chosen["ordinal"][places], kind="stable")
            if not found:
                found = [np.empty((len(chosen), one.shape[1]), np.float16) for one in mine]
            for whole, part in zip(found, mine, strict=True):
                whole[places[order]] = part
        return tuple(found)


def _table(chosen: NDArray[np.void], images: NDArray[np.float16], texts: NDArray[np.float16]) -> pa.Table:
    columns = {
        "unit": pa.array(chosen["unit"].astype(np.int32)),
        "ordinal": pa.array(chosen["ordinal"].astype(np.int64)),
    }
    for name, rows in ((IMAGES, images), (TEXTS, texts)):
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return pa.table(columns)


def _embedded(layout: Layout, plan: Any, unit: str, ordinals: NDArray[np.int64]) -> tuple[NDArray[np.float16], ...]:
    """Embeddings of images and of texts of rows of a unit, ordinals ascending; both of shape (n, d)."""
    table = stored_scores(layout, plan, unit, ["ordinal", IMAGES, TEXTS], ordinals)
    return matrix(table[IMAGES]), matrix(table[TEXTS])


@dataclass
class NegativeStage(Stage):
    """See `Stage`. In memory are a unit's embeddings, and a batch in double precision (0.3 GB of 32,768 rows of 512
    numbers). A row costs 2 * batches * batch_size products of vectors."""

    layout: Layout
    temperature: float
    device: str
    fingerprint: Fingerprints
    name: str = field(default=NEG_CLIP_LOSS, init=False)
    part_of = "score"

    def setup(self) -> None:
        import torch

        self._claim = Claim(gpus) if (gpus := gpus_of(self.device)) else None
        self._device = self._claim.device if self._claim else self.device
        if self._device == "cpu":
            torch.set_num_threads(1)  # parallelism comes from worker processes

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        rows, took = np.sort(rows_of(self.layout, unit), order="ordinal"), 0.0
        ordinals, path = rows["ordinal"].astype(np.int64), self.layout.data(self.name, unit)
        if len(rows):
            images, texts = _embedded(self.layout, self._plan, unit, ordinals)
            number, batches = self._plan.number(unit), read_json(self.layout.commit(BATCHES, BATCHES))["batches"]
            heartbeat.expect(len(rows))
            sums = np.zeros(len(rows))
            for done, batch in enumerate(row_groups(self.layout.data(BATCHES, BATCHES))):
                if not batch.num_rows:
                    continue
                began = time.perf_counter()
                known = Batch(matrix(batch[IMAGES]), matrix(batch[TEXTS]), self._device)
                sums += known.normalisers(images, texts, _places(batch, number, ordinals), self.temperature)
                took += time.perf_counter() - began
                heartbeat.beat(len(rows) * done // batches)
            scores = np.einsum("nd,nd->n", images.astype(np.float64), texts.astype(np.float64)) - sums / batches
        else:
            scores = np.zeros(0)
        publish_table(path, pa.table([ordinals, scores.astype(np.float32)], schema=SCHEMA))
        return {"rows": len(rows), "comparing_seconds": round(took, 3)}, [path]


def _places(batch: pa.Table, unit: int, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in a batch the rows of a unit are, -1 where they are not."""
    mine = np.flatnonzero(np.asarray(batch["unit"]) == unit)
    found = np.full(len(ordinals), -1, np.int64)
    found[np.searchsorted(ordinals, np.asarray(batch["ordinal"])[mine])] = mine
    return found
