"""The passes of stage `score` over all units, for rules that compare rows with other rows.

`RowStage` finds the rows that all earlier filters keep and that have a score, in a random order
that depends only on uids and a seed. `BatchStage` takes the first rows as batches, `NegativeStage`
computes each row's score against these batches, and `ThresholdStage` finds the exact score that a
fraction of the rows reaches, in bounded memory.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.devices import Claim, gpus_of
from open_diht.filters.presets import Preset
from open_diht.filters.score import CLIP_SCORE, MASKED_SCORE, NEG_CLIP_LOSS, NegativesRule
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.stages.encoding import READABLE, matrix
from open_diht.pipelines.stages.image_records import decided_rows
from open_diht.pipelines.stages.keys import halves_of_uids, spread
from open_diht.pipelines.stages.score.cliploss import Batch
from open_diht.pipelines.stages.score.stored import IMAGES, SCORE, TEXTS, stored_rows
from open_diht.pipelines.stages.slices import pack, read_slice
from open_diht.pipelines.store.commit import TableFile, publish_bytes, publish_table, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, Fingerprints, caption_record
from open_diht.pipelines.store.storage import read_range, read_table, row_groups

ROWS = "score_rows"
ROW = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("ordinal", "<u4"),
        (CLIP_SCORE, "<f4"),
        (MASKED_SCORE, "<f4"),
    ]
)
"""A row: its key in the random order, in two halves, its index in the unit, and its scores."""
PARTS = 256
"""A unit's rows are sorted by their key in the random order, and can be read by the first byte of
the key."""


@dataclass
class RowStage(Stage):
    """A `Stage` that finds those rows of a unit that filters keep and that have a score, in random
    order."""

    layout: Layout
    preset: Preset
    before: tuple[str, ...]
    """The stages whose filters decide."""
    seed: int
    fingerprint: Fingerprints
    name: str = field(default=ROWS, init=False)
    part_of = "score"

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        known = stored_rows(
            self.layout, SCORE, self._plan, unit, ["ordinal", "status", CLIP_SCORE, MASKED_SCORE]
        )
        known = known.filter(pc.equal(known["status"], READABLE)) if known.num_rows else known
        scored = np.asarray(known["ordinal"])
        image_units = self._plan.image_units(caption_record(self.layout, unit))
        parts = [np.empty(0, ROW)]
        for rows, decisions in decided_rows(
            self.layout, unit, image_units, self.preset, self.before
        ):
            ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
            mine = np.flatnonzero(decisions.passed & np.isin(ordinals, scored))
            reaching = np.empty(len(mine), ROW)
            if len(mine):
                keys = random_order(rows["uid"].take(pa.array(mine)).to_pylist(), self.seed)
                places = np.searchsorted(scored, ordinals[mine])
                reaching["high"], reaching["low"], reaching["ordinal"] = *keys.T, ordinals[mine]
                for name in (CLIP_SCORE, MASKED_SCORE):
                    reaching[name] = np.asarray(known[name])[places]
            parts.append(reaching)
        everything = np.concatenate(parts)
        everything = everything[
            np.lexsort((everything["ordinal"], everything["low"], everything["high"]))
        ]
        path = self.layout.slices(self.name, unit)
        publish_bytes(
            path, pack(everything, (everything["high"] >> np.uint64(56)).astype(np.int64), PARTS)
        )
        return {"rows": len(everything)}, [path]


def random_order(uids: list[str], seed: int) -> NDArray[np.uint64]:
    """Return keys, shape (n, 2) uint64, whose order is the random order of the rows for this
    seed."""
    return spread(halves_of_uids(uids) ^ spread(np.array([[0, seed]], np.uint64)))


def rows_of(layout: Layout, unit: str, first: int = 0, stop: int = PARTS) -> NDArray[np.void]:
    """Return the rows of a unit in parts [first, stop), in the random order."""
    path = layout.slices(ROWS, unit)
    return read_slice(partial(read_range, path), ROW, PARTS, first, stop, str(path))


def first_rows(
    units: list[tuple[int, str]],
    read: Callable[[str, int, int], NDArray[np.void]],
    count: int,
    rows: int,
) -> NDArray[np.void]:
    """Return the first `count` rows of all units in the random order, or all rows if there are
    fewer, as a structured array with `unit` and `ordinal`. `read`: see `rows_of`."""
    wanted = min(count, rows)
    stop = 0
    chosen = np.empty(0, [("unit", "<i4"), *ROW.descr])
    while len(chosen) < wanted:  # the number of rows in a part is only approximately known
        first = stop
        missing = wanted - len(chosen)
        stop = min(PARTS, first + 1 + int(1.1 * missing * PARTS / rows))
        parts = [chosen]
        for number, name in units:
            mine = read(name, first, stop)
            more = np.empty(len(mine), chosen.dtype)
            more["unit"] = number
            for column in ROW.names or ():
                more[column] = mine[column]
            parts.append(more)
        chosen = np.concatenate(parts)
    order = np.lexsort((chosen["ordinal"], chosen["unit"], chosen["low"], chosen["high"]))
    return chosen[order[:wanted]]


BATCHES = "score_batches"
"""Name of the stage and of its only unit."""
SCHEMA = pa.schema([("ordinal", pa.int64()), (NEG_CLIP_LOSS, pa.float32())])


@dataclass
class BatchStage(Stage):
    """A `Stage` of one unit. It divides the first rows of the random order over all units into
    batches, one per row group. It reads the embeddings of each unit with such rows once. Memory
    holds only the embeddings of the batches.
    """

    layout: Layout
    rule: NegativesRule
    skip: frozenset[str]
    rows: int
    """Number of rows that reach the rule."""
    fingerprint: str
    name: str = field(default=BATCHES, init=False)
    part_of = "score"

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        units = [
            (number, one.name)
            for number, one in enumerate(self._plan.units)
            if one.name not in self.skip
        ]
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

    def _embeddings(
        self, names: dict[int, str], chosen: NDArray[np.void]
    ) -> tuple[NDArray[np.float16], ...]:
        embeddings: list[NDArray[np.float16]] = []
        for number in np.unique(chosen["unit"]).tolist():
            places = np.flatnonzero(chosen["unit"] == number)
            mine = _embedded(
                self.layout,
                self._plan,
                names[number],
                np.sort(chosen["ordinal"][places].astype(np.int64)),
            )
            order = np.argsort(chosen["ordinal"][places], kind="stable")
            if not embeddings:
                embeddings = [np.empty((len(chosen), one.shape[1]), np.float16) for one in mine]
            for whole, part in zip(embeddings, mine, strict=True):
                whole[places[order]] = part
        return tuple(embeddings)


def _table(
    chosen: NDArray[np.void], images: NDArray[np.float16], texts: NDArray[np.float16]
) -> pa.Table:
    columns = {
        "unit": pa.array(chosen["unit"].astype(np.int32)),
        "ordinal": pa.array(chosen["ordinal"].astype(np.int64)),
    }
    for name, rows in ((IMAGES, images), (TEXTS, texts)):
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return pa.table(columns)


def _embedded(
    layout: Layout, plan: Plan, unit: str, ordinals: NDArray[np.int64]
) -> tuple[NDArray[np.float16], ...]:
    """Return embeddings of images and texts of a unit's rows, ordinals ascending; both of shape (n,
    d)."""
    table = stored_rows(layout, SCORE, plan, unit, ["ordinal", IMAGES, TEXTS], ordinals)
    return matrix(table[IMAGES]), matrix(table[TEXTS])


@dataclass
class NegativeStage(Stage):
    """A `Stage` that computes the corrected scores of a unit. Memory holds a unit's embeddings and
    a batch in double precision (0.3 GB for 32,768 rows of 512 numbers). Each row takes 2 * batches
    * batch_size vector products.
    """

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

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        rows = np.sort(rows_of(self.layout, unit), order="ordinal")
        took = 0.0
        ordinals = rows["ordinal"].astype(np.int64)
        path = self.layout.data(self.name, unit)
        if len(rows):
            images, texts = _embedded(self.layout, self._plan, unit, ordinals)
            number = self._plan.number(unit)
            batches = read_json(self.layout.commit(BATCHES, BATCHES))["batches"]
            heartbeat.expect(len(rows))
            clock = time.process_time if self._device == "cpu" else time.perf_counter
            sums = np.zeros(len(rows))
            for done, batch in enumerate(row_groups(self.layout.data(BATCHES, BATCHES))):
                if not batch.num_rows:
                    continue
                began = clock()
                known = Batch(matrix(batch[IMAGES]), matrix(batch[TEXTS]), self._device)
                sums += known.normalizers(
                    images, texts, _places(batch, number, ordinals), self.temperature
                )
                took += clock() - began
                heartbeat.beat(len(rows) * done // batches)
            scores = (
                np.einsum("nd,nd->n", images.astype(np.float64), texts.astype(np.float64))
                - sums / batches
            )
        else:
            scores = np.zeros(0)
        publish_table(path, pa.table([ordinals, scores.astype(np.float32)], schema=SCHEMA))
        return {"rows": len(rows), "comparing_seconds": round(took, 3)}, [path]


def _places(batch: pa.Table, unit: int, ordinals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index in a batch of each row of a unit. A row that is not in the batch has -1."""
    mine = np.flatnonzero(np.asarray(batch["unit"]) == unit)
    places = np.full(len(ordinals), -1, np.int64)
    places[np.searchsorted(ordinals, np.asarray(batch["ordinal"])[mine])] = mine
    return places


THRESHOLDS = "score_thresholds"
_HALF = 16

Scores = Iterable[NDArray[np.float32]]


@dataclass
class ThresholdStage(Stage):
    """A `Stage` whose units are the scores with a fraction to keep. Each unit reads all scores
    twice."""

    layout: Layout
    keep: Mapping[str, float]
    """The fraction to keep, by score."""
    rows: int
    """Number of rows that reach the rule."""
    skip: frozenset[str]
    fingerprint: Mapping[str, str]
    name: str = field(default=THRESHOLDS, init=False)
    part_of = "score"

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        kept = rows_kept(self.keep[unit], self.rows)
        threshold = kth_largest(lambda: self._scores(unit), kept) if kept else None
        return {"rows": self.rows, "kept": kept, "threshold": threshold}, []

    def _scores(self, score: str) -> Iterator[NDArray[np.float32]]:
        for name in (one.name for one in self._plan.units if one.name not in self.skip):
            if score == NEG_CLIP_LOSS:
                yield np.asarray(
                    read_table(self.layout.data(NEG_CLIP_LOSS, name), columns=[NEG_CLIP_LOSS])[0]
                )
            else:
                yield rows_of(self.layout, name)[score]


def rows_kept(share: float, rows: int) -> int:
    """Return the number of rows in a fraction above 0 of `rows`, rounded up, so that it is 0 only
    without rows."""
    # Binary floating point may exceed a decimal fraction slightly.
    count = math.ceil(share * rows - 1e-9)
    return max(min(1, rows), count)


def kth_largest(scores: Callable[[], Scores], k: int) -> float:
    """Return the k-th largest of all scores (k from 1), found by the upper half of their bits, then
    the lower half."""
    upper, rank = _bin_of(scores, k, lambda keys: keys >> _HALF)
    lower, _ = _bin_of(scores, rank, lambda keys: keys[keys >> _HALF == upper] & (2**_HALF - 1))
    key = np.uint32(upper << _HALF | lower)
    bits = key & np.uint32(2**31 - 1) if key >> 31 else ~key  # the inverse of `_keys`
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def _bin_of(
    scores: Callable[[], Scores], k: int, bins: Callable[[NDArray[Any]], NDArray[Any]]
) -> tuple[int, int]:
    """Return the bin that contains the k-th largest score, and the score's rank within that bin,
    from 1."""
    counts = np.zeros(2**_HALF, np.int64)
    for part in scores():
        counts += np.bincount(bins(_keys(part)), minlength=2**_HALF)
    above = np.cumsum(counts[::-1])
    index = int(np.searchsorted(above, k))
    return 2**_HALF - 1 - index, k - int(above[index] - counts[::-1][index])


def _keys(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return an integer for each score. The integers have the same order as the scores."""
    bits = np.ascontiguousarray(scores + np.float32(0.0)).view(np.uint32)  # -0.0 is 0.0
    # The bits of negative floats ascend with magnitude, so they are inverted.
    return np.where(bits >> 31, ~bits, bits | np.uint32(2**31)).astype(np.int64)
