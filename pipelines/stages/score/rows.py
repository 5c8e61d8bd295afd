"""Who comes to the rules of stage `score`: of each unit the rows that everything before keeps and that have a score, in
an order that is random with respect to content and depends on nothing but uids and a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.filters.presets import Preset
from open_diht.filters.score import CLIP_SCORE
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.stages.cascade import KEPT, apply_cascade
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.dedup.keys import halves_of_uids, spread
from open_diht.pipelines.stages.dedup.slices import pack, read_slice
from open_diht.pipelines.stages.encoding import OK
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.stages.score.stage import stored_scores
from open_diht.pipelines.store.commit import publish_bytes, read_json
from open_diht.pipelines.store.fingerprints import Fingerprints
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import read_range

ROWS = "score_rows"
ROW = np.dtype([("high", "<u8"), ("low", "<u8"), ("ordinal", "<u4"), ("score", "<f4")])
"""A row: its place in the random order, in two halves; its place in the unit; its CLIP score."""
PARTS = 256
"""A unit's rows are sorted by their place in the order, and can be read by the first byte of it."""


@dataclass
class RowStage(Stage):
    """See `Stage`."""

    layout: Layout
    preset: Preset
    before: tuple[str, ...]
    """Stages whose filters decide."""
    seed: int
    fingerprint: Fingerprints
    name: str = field(default=ROWS, init=False)
    part_of = "score"

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        known = stored_scores(self.layout, self._plan, unit, ["ordinal", "status", CLIP_SCORE])
        known = known.filter(pc.equal(known["status"], OK)) if known.num_rows else known
        scored = np.asarray(known["ordinal"])
        image_units = self._plan.image_units(read_json(self.layout.commit("captions", unit)))
        images = image_records(self.layout, unit, image_units, self.before)
        parts = [np.empty(0, ROW)]
        for rows in annotated_rows(self.layout, unit, self.preset):
            decisions = apply_cascade(rows, images, self.preset, self.before)
            ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
            mine = np.flatnonzero((decisions.reasons == KEPT) & np.isin(ordinals, scored))
            found = np.empty(len(mine), ROW)
            if len(mine):
                keys = random_order(rows["uid"].take(pa.array(mine)).to_pylist(), self.seed)
                scores = np.asarray(known[CLIP_SCORE])[np.searchsorted(scored, ordinals[mine])]
                found["high"], found["low"], found["ordinal"], found["score"] = *keys.T, ordinals[mine], scores
            parts.append(found)
        everything = np.concatenate(parts)
        everything = everything[np.lexsort((everything["ordinal"], everything["low"], everything["high"]))]
        path = self.layout.slices(self.name, unit)
        publish_bytes(path, pack(everything, (everything["high"] >> np.uint64(56)).astype(np.int64), PARTS))
        return {"rows": len(everything)}, [path]


def random_order(uids: list[str], seed: int) -> NDArray[np.uint64]:
    """Keys, shape (n, 2), whose order is the random order of rows: of the uid and the seed."""
    return spread(halves_of_uids(uids) ^ spread(np.array([[0, seed]], np.uint64)))


def rows_of(layout: Layout, unit: str, first: int = 0, stop: int = PARTS) -> NDArray[np.void]:
    """The rows of a unit, of parts [first, stop), in the random order."""
    path = layout.slices(ROWS, unit)
    return read_slice(partial(read_range, path), ROW, PARTS, first, stop, str(path))


def first_rows(
    units: list[tuple[int, str]], read: Callable[[str, int, int], NDArray[np.void]], count: int, rows: int
) -> NDArray[np.void]:
    """The first rows of all in the random order: structured array with `unit`, `ordinal`, in that order.

    Args:
        units: numbers and names.
        read: as `rows_of`.
        count: how many; all, where there are fewer.
        rows: of all units.
    """
    wanted = min(count, rows)
    stop, found = 0, np.empty(0, [("unit", "<i4"), *ROW.descr])
    while len(found) < wanted:  # what a part of the order holds is known but for chance
        first, missing = stop, wanted - len(found)
        stop = min(PARTS, first + 1 + int(1.1 * missing * PARTS / rows))
        parts = [found]
        for number, name in units:
            mine = read(name, first, stop)
            more = np.empty(len(mine), found.dtype)
            more["unit"] = number
            for column in ROW.names or ():
                more[column] = mine[column]
            parts.append(more)
        found = np.concatenate(parts)
    order = np.lexsort((found["ordinal"], found["unit"], found["low"], found["high"]))
    return found[order[:wanted]]
