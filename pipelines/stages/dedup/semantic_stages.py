"""Stages that find semantic duplicates: embeddings of images, centroids, each unit's members of clusters, and the
near copies within a group of clusters."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.dedup import DedupRule
from filters.spotting.decode import UnreadableImage
from pipelines.datasets import Dataset
from pipelines.engine.progress import Heartbeat
from pipelines.engine.stage import Done, Stage
from pipelines.manifests import MissingImage, UnreadableFile
from pipelines.stages.dedup.clusters import assign, cluster_count, faiss, train, unit_length
from pipelines.stages.dedup.encoders import BATCH, Encoder, find_encoder
from pipelines.stages.dedup.exact_stages import Competitors, competitors
from pipelines.stages.dedup.findings import SEMANTIC, DuplicateFiles, Entries, duplicates_stage, write_entries
from pipelines.stages.dedup.keys import spread
from pipelines.stages.dedup.semantic import duplicates, member_parts, member_type
from pipelines.stages.dedup.slices import pack, read_slice
from pipelines.stages.downloads import downloaded_state, images_of
from pipelines.stages.generations import GenerationStage
from pipelines.store.commit import TableFile, publish_bytes, read_json
from pipelines.store.fingerprints import Fingerprints
from pipelines.store.layout import Layout
from pipelines.store.names import generation_name, image_unit_name, place_of, unit_of
from pipelines.store.storage import StorePath, read_range, read_table

EMBEDDINGS = "embeddings"
CENTROIDS = "centroids"
"""Name of the stage and of its only unit."""
_OK = "ok"


def embedding_type(dimension: int) -> pa.Schema:
    """An image: `status` is ok, or why it has no embedding."""
    return pa.schema(
        [
            ("ordinal", pa.int64()),
            ("status", pa.string()),
            ("message", pa.string()),
            ("embedding", pa.list_(pa.float16(), dimension)),
        ]
    )


def embedding_of(encoder: str, downloads: list[Any] | None) -> str:
    """What the embeddings of an image unit depend on: the encoder, and the images where they were downloaded."""
    return encoder if downloads is None else "-".join(map(str, [encoder, *downloads]))


@dataclass(frozen=True)
class Embedded:
    """Embeddings of some rows of a unit, ordinals ascending."""

    ordinals: NDArray[np.int64]
    uids: NDArray[np.uint64]
    vectors: NDArray[np.float16]


@dataclass
class _SemanticStage(Stage):
    """What the stages share."""

    layout: Layout
    before: tuple[DuplicateFiles, ...]
    """The kinds that were asked before, in order."""
    part_of = "dedup"

    def setup(self) -> None:
        self._entries = Entries(self.layout)

    def _competitors(self, unit: str) -> Competitors:
        return competitors(self.layout, unit, self._plan.number(unit), self.before, self._entries)

    def _embedded(self, unit: str) -> Embedded | None:
        """The embeddings of a unit's competitors that have one; None where no image has any."""
        rows = self._competitors(unit)
        tables = []
        for image_unit in self._plan.image_units(read_json(self.layout.commit("captions", unit))["rows"]):
            name = image_unit_name(unit, image_unit)
            record = read_json(self.layout.commit(EMBEDDINGS, name))
            for generation in range(record["generations"]):
                tables.append(read_table(self.layout.data(EMBEDDINGS, generation_name(name, generation))))
        good = [table.filter(pc.equal(table["status"], _OK)) for table in tables]
        good = [table for table in good if table.num_rows]
        if not good:
            return None
        ordinals = np.concatenate([np.asarray(table["ordinal"]) for table in good])
        vectors = np.concatenate([_matrix(table["embedding"]) for table in good])
        order = np.argsort(ordinals, kind="stable")
        ordinals, vectors = ordinals[order], vectors[order]
        wanted = np.isin(ordinals, rows.ordinals)
        ordinals, vectors = ordinals[wanted], vectors[wanted]
        return Embedded(ordinals, rows.uids[np.searchsorted(rows.ordinals, ordinals)], vectors)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float16]:
    flat = np.concatenate([np.asarray(chunk.flatten()) for chunk in column.chunks])
    return flat.reshape(len(column), -1)


@dataclass
class EmbeddingStage(_SemanticStage, GenerationStage):
    """See `GenerationStage`. Its units are image units, as in stage spotting."""

    dataset: Dataset
    encoder: str
    fingerprint: str
    """Of the encoder and its weights."""
    covers: Fingerprints
    """Names the rows of each caption unit that compete."""
    name: str = field(default=EMBEDDINGS, init=False)
    counted = noun = "images"
    nothing: ClassVar[dict[str, Any]] = {"images": 0, "bad": 0}

    def setup(self) -> None:
        super().setup()
        self._encoder = Encoder(find_encoder(self.encoder))

    def fingerprint_of(self, unit: str) -> str:
        return embedding_of(self.fingerprint, downloaded_state(self.layout, unit))

    def is_complete(self, unit: str, record: dict[str, Any] | None) -> bool:
        current = self.current(unit, record)
        return current is not None and current["covers"] == self.covers[unit_of(unit)]

    def candidates(self, unit: str) -> NDArray[np.int64]:
        parent, image_unit = place_of(unit)
        rows, ordinals = self._plan.image_rows, self._competitors(parent).ordinals
        return ordinals[(ordinals >= image_unit * rows) & (ordinals < (image_unit + 1) * rows)]

    def add(
        self, unit: str, name: str, ordinals: NDArray[np.int64], record: dict[str, Any], heartbeat: Heartbeat
    ) -> list[StorePath]:
        path = self.layout.data(self.name, name)
        with TableFile(path) as out:
            record["bad"] += self._embed(unit_of(unit), ordinals, out, heartbeat)
        record["images"] += len(ordinals)
        return [path]

    def cover(self, unit: str, record: dict[str, Any]) -> None:
        record["covers"] = self.covers[unit_of(unit)]

    def _embed(self, parent: str, ordinals: NDArray[np.int64], out: TableFile, heartbeat: Heartbeat) -> int:
        """Write a row for each image; how many have no embedding."""
        plan = self._plan
        span = plan.span(parent)
        waiting: list[tuple[int, bytes | MissingImage]] = []
        done = bad = 0

        def flush() -> None:
            nonlocal bad, done
            bad += self._write(waiting, out)
            done += len(waiting)
            waiting.clear()
            heartbeat.beat(done)

        try:
            for ordinal, image in images_of(self.layout, parent, span, plan.image_rows, self.dataset, ordinals):
                waiting.append((ordinal, image))
                if len(waiting) == BATCH:
                    flush()
        except UnreadableFile as error:
            gone = MissingImage(reason="image_unreadable", message=error.message)
            waiting += [(ordinal, gone) for ordinal in ordinals[done + len(waiting) :].tolist()]
        if waiting:
            flush()
        return bad

    def _write(self, images: list[tuple[int, bytes | MissingImage]], out: TableFile) -> int:
        given = [image for _, image in images if isinstance(image, bytes)]
        answers = iter(self._encoder.encode(given))
        results = [next(answers) if isinstance(image, bytes) else image for _, image in images]
        dimension = self._encoder.dimension
        flat = np.zeros((len(results), dimension), np.float16)
        for index, result in enumerate(results):
            if isinstance(result, np.ndarray):
                flat[index] = result
        bad = [None if isinstance(result, np.ndarray) else result for result in results]
        columns = [
            pa.array([ordinal for ordinal, _ in images], pa.int64()),
            pa.array([_OK if one is None else str(one.reason) for one in bad], pa.string()),
            pa.array(["" if one is None else one.message for one in bad], pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), dimension),
        ]
        out.write(pa.table(columns, schema=embedding_type(dimension)))
        return sum(isinstance(one, UnreadableImage | MissingImage) for one in bad)


@dataclass
class CentroidStage(_SemanticStage):
    """See `Stage`. One unit: trains k-means on a sample of all embeddings. A row is in the sample by its uid, so the
    sample depends neither on units nor on workers."""

    rule: DedupRule
    skip: frozenset[str]
    rows: int
    """Embeddings in all."""
    fingerprint: str
    name: str = field(default=CENTROIDS, init=False)

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        clusters = cluster_count(self.rows, self.rule.clusters)
        share = min(1.0, clusters * self.rule.points / max(self.rows, 1))
        parts = []
        for name in (planned.name for planned in self._plan.units if planned.name not in self.skip):
            found = self._embedded(name)
            if found is not None:
                # Not the bits that ranges of keys are cut by, though any would do.
                chosen = spread(found.uids)[:, 1] < share * 2.0**64
                parts.append(found.vectors[chosen] if share < 1 else found.vectors)
        sample = unit_length(np.concatenate(parts)) if parts else np.zeros((0, 1), np.float32)
        clusters = max(1, min(clusters, len(sample)))
        centroids = train(sample, clusters, self.rule.seed) if len(sample) else sample
        content = io.BytesIO()
        np.save(content, centroids)
        publish_bytes(self.layout.slices(self.name, unit), content.getvalue())
        record = {"rows": len(sample), "clusters": len(centroids), "dimension": int(sample.shape[1])}
        return record, [self.layout.slices(self.name, unit)]


@dataclass
class MemberStage(_SemanticStage):
    """See `Stage`. Writes a unit's embeddings ordered by cluster, with the cosine to the centroid."""

    groups: int
    fingerprint: str
    name: str = field(default="members", init=False)

    def setup(self) -> None:
        super().setup()
        content = self.layout.slices(CENTROIDS, CENTROIDS).read_bytes()
        self._centroids = np.load(io.BytesIO(content), allow_pickle=False)
        if len(self._centroids) > 1:
            faiss().omp_set_num_threads(1)  # parallelism comes from worker processes

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        clusters, dimension = self._centroids.shape
        found = self._embedded(unit)
        records = np.empty(0 if found is None else len(found.ordinals), member_type(dimension))
        if found is not None and len(records):
            cluster, cosine = assign(unit_length(found.vectors), self._centroids)
            order = np.argsort(cluster, kind="stable")  # within a cluster by ordinal
            records["cluster"], records["cosine"] = cluster[order], cosine[order]
            records["ordinal"], records["vector"] = found.ordinals[order], found.vectors[order]
            records["uid_high"], records["uid_low"] = found.uids[order, 0], found.uids[order, 1]
        parts = member_parts(records["cluster"], clusters, self.groups)
        publish_bytes(self.layout.slices(self.name, unit), pack(records, parts, self.groups))
        return {"rows": len(records)}, [self.layout.slices(self.name, unit)]


@dataclass
class GroupStage(Stage):
    """See `Stage`. Its units are groups of clusters: each reads its slice of every unit's members."""

    layout: Layout
    rule: DedupRule
    groups: int
    dimension: int
    skip: frozenset[str]
    fingerprint: str
    name: str = field(default=duplicates_stage(SEMANTIC), init=False)
    part_of = "dedup"

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        group = int(unit)
        names = [(number, planned.name) for number, planned in enumerate(self._plan.units)]
        slices = ((number, self._slice(name, group)) for number, name in names if name not in self.skip)
        rule = self.rule
        found = duplicates(slices, self.dimension, rule.eps, rule.keep, rule.against)  # type: ignore[arg-type]
        write_entries(self.layout.data(self.name, unit), [found])
        return {"rows": found.num_rows}, [self.layout.data(self.name, unit)]

    def _slice(self, name: str, group: int) -> NDArray[np.void]:
        path = self.layout.slices("members", name)
        return read_slice(
            partial(read_range, path), member_type(self.dimension), self.groups, group, group + 1, str(path)
        )
