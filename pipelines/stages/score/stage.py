"""Stage `score`: embeds images and captions of rows that pass what comes before, and stores their similarity.

Its units are image units. What is stored is in half precision, and the similarity is that of what is stored: it is
computed in double precision, where products and sums of such numbers are exact.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.utils.shared import Shared
from numpy.typing import NDArray

from open_diht.filters.presets import Preset
from open_diht.filters.score import CLIP_SCORE
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.plan import Plan
from open_diht.pipelines.stages.cascade import KEPT, apply_cascade
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.encoders import Encoder, find_pair_encoder
from open_diht.pipelines.stages.encoding import OK, Encoded, EncodingStage, matrix, statuses, vectors
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.fingerprints import fingerprint_of
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import generation_name, image_unit_name, place_of, unit_of
from open_diht.pipelines.store.storage import StorePath, row_groups

NAME = "score"
VERSION = 1
"""Raise it when equal images and captions may get other embeddings."""
IMAGES, TEXTS = "image_embedding", "text_embedding"
"""Columns of the stage's files, beside ordinal, uid, status (ok, or why there is no score), message and clip_score."""
BATCH_OF_GPU = 256
NO_TEXT = "text_not_embedded"
_MOST_CHARS = 4_096
"""Of a caption; no tokenizer here reads so many."""


@dataclass
class ScoreStage(EncodingStage):
    """See `GenerationStage`."""

    layout: Layout
    dataset: Dataset
    preset: Preset
    before: tuple[str, ...]
    """Stages whose filters decide which rows are scored."""
    asked: str
    """Changes with what decides it."""
    model: str
    fingerprint: str
    """Of the model, its weights and precision."""
    device: str
    precision: str
    batch_size: int
    threads: int
    name: str = field(default=NAME, init=False)
    shared: Shared = field(default_factory=Shared, init=False)
    """A process holds one model, however many units it is at."""

    def setup(self) -> None:
        self._encoder = self.shared.acquire(self._load)

    def _load(self) -> Encoder:
        return Encoder(find_pair_encoder(self.model), self.device, self.precision, self.batch_size)

    def covered(self, unit: str, spotting: dict[str, Any] | None) -> str:
        """Names the rows that a unit holds when it is done, given its commit record of stage spotting."""
        read = spotting and "spotting" in self.before
        return fingerprint_of(self.asked, [spotting["fingerprint"], spotting["downloads"]] if spotting and read else [])

    def is_complete(self, unit: str, record: dict[str, Any] | None) -> bool:
        current = self.current(unit, record)
        return current is not None and self._covered(unit) in current["covers"]

    def _covered(self, unit: str) -> str:
        return self.covered(unit, read_json(self.layout.commit("spotting", unit)))

    def candidates(self, unit: str) -> NDArray[np.int64]:
        parent, number = place_of(unit)
        first, stop = number * self._plan.image_rows, (number + 1) * self._plan.image_rows
        records = image_records(self.layout, parent, [number], self.before)
        found = [np.empty(0, np.int64)]
        for rows in annotated_rows(self.layout, parent, self.preset, between=("ordinal", first, stop)):
            ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
            inside = (ordinals >= first) & (ordinals < stop)
            mine = rows.filter(pa.array(inside))
            decisions = apply_cascade(mine, records, self.preset, self.before)
            found.append(ordinals[inside][decisions.reasons == KEPT])
        return np.concatenate(found)

    def add(
        self, unit: str, name: str, ordinals: NDArray[np.int64], record: dict[str, Any], heartbeat: Heartbeat
    ) -> list[StorePath]:
        between = ("ordinal", int(ordinals[0]), int(ordinals[-1]) + 1)
        columns = ["ordinal", "uid", "caption"]
        groups = row_groups(self.layout.data("captions", unit_of(unit)), columns, between=between)
        self._rows_of = pa.concat_tables(group.filter(_among(group, ordinals)) for group in groups)
        return super().add(unit, name, ordinals, record, heartbeat)

    def cover(self, unit: str, record: dict[str, Any]) -> None:
        record["covers"] = sorted({*record["covers"], self._covered(unit)})
        record["temperature"] = self._encoder.temperature

    def table(self, ordinals: list[int], found: list[Encoded]) -> pa.Table:
        places = np.searchsorted(np.asarray(self._rows_of["ordinal"]), ordinals)
        rows = self._rows_of.take(pa.array(places))
        texts = self._encoder.texts([(caption or "")[:_MOST_CHARS] for caption in rows["caption"].to_pylist()])
        images = vectors(found, self._encoder.dimension)
        captions = vectors(texts, self._encoder.dimension)
        known = [
            (NO_TEXT, "the model's answer to the caption is not finite or zero") if text is None and status == OK
            else (status, message)
            for (status, message), text in zip(statuses(found), texts, strict=True)
        ]  # fmt: skip
        states, messages = zip(*known, strict=True)
        score = similarities(images, captions)
        return pa.table(
            {
                "ordinal": pa.array(ordinals, pa.int64()),
                "uid": rows["uid"],
                "status": states,
                "message": messages,
                CLIP_SCORE: pa.array(score, mask=np.array([state != OK for state in states], bool)),
                IMAGES: images,
                TEXTS: captions,
            }
        )


def similarities(images: pa.Array, texts: pa.Array) -> NDArray[np.float32]:
    """The cosine of each pair of two columns of unit vectors."""
    one, other = (matrix(pa.chunked_array([column])).astype(np.float64) for column in (images, texts))
    return np.einsum("nd,nd->n", one, other).astype(np.float32)


def threads_of(device: str, workers: int) -> int:
    """Threads that decode images beside a model on a GPU; 0 on a processor."""
    return 0 if device == "cpu" else max(1, (os.cpu_count() or 1) // max(1, workers))


def stored_scores(
    layout: Layout, plan: Plan, unit: str, columns: Sequence[str], ordinals: NDArray[np.int64] | None = None
) -> pa.Table:
    """What is stored of a caption unit, by ordinal.

    Args:
        layout: of the output folder.
        plan: what `layout.plan` holds.
        unit: the caption unit.
        columns: of the stage's files; `ordinal` is among them.
        ordinals: of the rows that are asked for; None: all.
    """
    parts = list(_stored(layout, plan, unit, list(columns), ordinals))
    if not parts:
        return pa.table({"ordinal": pa.array([], pa.int64())})
    return pa.concat_tables(parts).combine_chunks().sort_by("ordinal")


def _stored(
    layout: Layout, plan: Plan, unit: str, columns: list[str], ordinals: NDArray[np.int64] | None
) -> Iterator[pa.Table]:
    for number in plan.image_units(read_json(layout.commit("captions", unit))):
        name = image_unit_name(unit, number)
        record = read_json(layout.commit(NAME, name))
        for generation in range(record["generations"] if record else 0):
            for group in row_groups(layout.data(NAME, generation_name(name, generation)), columns):
                yield group if ordinals is None else group.filter(_among(group, ordinals))


def _among(rows: pa.Table, ordinals: NDArray[np.int64]) -> pa.Array:
    return pc.is_in(rows["ordinal"], value_set=pa.array(ordinals, pa.int64()))
