"""Stages that find semantic duplicates: embeddings, centroids, members of clusters, near copies."""

import io
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.filters.dedup import DedupRule
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.stages.annotator import DuplicateFiles
from open_diht.pipelines.stages.dedup.clusters import (
    assign,
    cluster_count,
    faiss,
    train,
)
from open_diht.pipelines.stages.dedup.exact_stages import Competitors, competitors
from open_diht.pipelines.stages.dedup.findings import (
    SEMANTIC,
    Entries,
    duplicates_stage,
    write_entries,
)
from open_diht.pipelines.stages.dedup.semantic import duplicates, member_parts, member_type
from open_diht.pipelines.stages.encoders import Encoder, find_encoder
from open_diht.pipelines.stages.encoding import (
    READABLE,
    Encoded,
    EncodingStage,
    matrix,
    statuses,
    vectors,
)
from open_diht.pipelines.stages.keys import spread
from open_diht.pipelines.stages.slices import pack, read_slice
from open_diht.pipelines.stages.vectors import unit_length
from open_diht.pipelines.store.commit import publish_bytes, read_json
from open_diht.pipelines.store.layout import (
    Layout,
    image_unit_name,
    place_of,
    segment_name,
    unit_of,
)
from open_diht.pipelines.store.records import CommitRecord, Fingerprints
from open_diht.pipelines.store.storage import read_range, read_table

EMBEDDINGS_STAGE = "embeddings"
CENTROIDS = "centroids"
"""Name of the stage and of its only unit."""


@dataclass(frozen=True)
class Stored:
    """The stage that embedded the images, and the column with the embeddings in its files."""

    stage: str = EMBEDDINGS_STAGE
    column: str = "embedding"


@dataclass(frozen=True)
class Embedded:
    """Embeddings of some rows of a unit, ordinals ascending."""

    ordinals: NDArray[np.int64]
    uids: NDArray[np.uint64]
    vectors: NDArray[np.float16]


@dataclass
class _SemanticStage(Stage):
    """The base of stages that need the rows that nothing has rejected so far."""

    layout: Layout
    before: tuple[DuplicateFiles, ...]
    """The kinds that were compared before, in order."""
    part_of = "dedup"

    def setup(self) -> None:
        self._entries = Entries(self.layout)

    def _competitors(self, unit: str) -> Competitors:
        return competitors(self.layout, unit, self._plan.number(unit), self.before, self._entries)


@dataclass
class _OfEmbeddings(_SemanticStage):
    """The base of stages that read embeddings."""

    stored: Stored

    def _embedded(self, unit: str) -> Embedded | None:
        """Return the `READABLE` embeddings of a unit's competitors. Return None if no row of the
        unit has the status `READABLE`."""
        rows = self._competitors(unit)
        good = self._stored(unit, self.stored.column)
        if not good:
            return None
        ordinals = np.concatenate([np.asarray(table["ordinal"]) for table in good])
        vectors = np.concatenate([matrix(table[self.stored.column]) for table in good])
        order = np.argsort(ordinals, kind="stable")
        ordinals, vectors = ordinals[order], vectors[order]
        # A row that was scored again is stored several times.
        wanted = np.isin(ordinals, rows.ordinals) & (ordinals != np.append(ordinals[1:], -1))
        ordinals, vectors = ordinals[wanted], vectors[wanted]
        return Embedded(ordinals, rows.uids[np.searchsorted(rows.ordinals, ordinals)], vectors)

    def _count(self, unit: str) -> int:
        """Return the number of rows of `_embedded`, without reading the embeddings."""
        good = [
            np.empty(0, np.int64),
            *(np.asarray(table["ordinal"]) for table in self._stored(unit)),
        ]
        return len(np.intersect1d(np.concatenate(good), self._competitors(unit).ordinals))

    def _stored(self, unit: str, *columns: str) -> list[pa.Table]:
        """Return the ordinals and these columns of a unit's images with status `READABLE`, in
        tables that are not empty. They include rows that do not compete. A row that was embedded
        several times occurs as many times.
        """
        tables = []
        for image_unit in self._plan.image_units(read_json(self.layout.commit("captions", unit))):
            name = image_unit_name(unit, image_unit)
            record = read_json(self.layout.commit(self.stored.stage, name))
            for segment in range(record["segments"]):
                path = self.layout.data(self.stored.stage, segment_name(name, segment))
                table = read_table(path, columns=["ordinal", "status", *columns])
                tables.append(table.filter(pc.equal(table["status"], READABLE)))
        return [table for table in tables if table.num_rows]


@dataclass
class EmbeddingStage(_SemanticStage, EncodingStage):
    """A `SegmentStage` that embeds images. Its units are image units, as in stage `spotting`."""

    dataset: Dataset
    encoder: str
    fingerprint: str
    """Fingerprint of the encoder, its weights and --images-root."""
    covers: Fingerprints
    """For each caption unit, the name of the set of rows that compete."""
    name: str = field(default=EMBEDDINGS_STAGE, init=False)

    def setup(self) -> None:
        super().setup()
        self._encoder = Encoder(find_encoder(self.encoder))

    def covered(self, unit: str) -> set[str]:
        return {self.covers[unit_of(unit)]}

    def candidates(self, unit: str) -> NDArray[np.int64]:
        parent, image_unit = place_of(unit)
        rows = self._plan.image_rows
        ordinals = self._competitors(parent).ordinals
        return ordinals[(ordinals >= image_unit * rows) & (ordinals < (image_unit + 1) * rows)]

    def table(self, ordinals: list[int], found: list[list[Encoded]]) -> pa.Table:
        images = [image for image, *_ in found]
        states, messages = zip(*statuses(images), strict=True)
        columns = {"ordinal": pa.array(ordinals, pa.int64()), "status": states, "message": messages}
        return pa.table({**columns, "embedding": vectors(images, self._encoder.dimension)})


@dataclass
class CentroidStage(_OfEmbeddings):
    """A `Stage` of one unit, which trains k-means on a sample of the competing rows' embeddings.
    The sample is drawn by uid, so it depends neither on units nor on workers."""

    rule: DedupRule
    skip: frozenset[str]
    fingerprint: str
    name: str = field(default=CENTROIDS, init=False)

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        names = [planned.name for planned in self._plan.units if planned.name not in self.skip]
        # The images that compete now, whatever other presets have embedded.
        rows = sum(map(self._count, names))
        clusters = cluster_count(rows, self.rule.clusters)
        share = min(1.0, clusters * self.rule.points / max(rows, 1))
        parts = []
        for name in names:
            found = self._embedded(name)
            if found is not None:
                # These are not the bits that ranges of keys are cut by, though those would work
                # too.
                chosen = spread(found.uids)[:, 1] < share * 2.0**64
                parts.append(found.vectors[chosen] if share < 1 else found.vectors)
        sample = unit_length(np.concatenate(parts)) if parts else np.zeros((0, 1), np.float32)
        clusters = max(1, min(clusters, len(sample)))
        centroids = train(sample, clusters, self.rule.seed) if len(sample) else sample
        content = io.BytesIO()
        np.save(content, centroids)
        publish_bytes(self.layout.slices(self.name, unit), content.getvalue())
        record = {"rows": rows, "clusters": len(centroids), "dimension": int(sample.shape[1])}
        return record, [self.layout.slices(self.name, unit)]


@dataclass
class MemberStage(_OfEmbeddings):
    """A `Stage` that writes the embeddings of a unit's competing rows by cluster, with the cosine
    to the centroid."""

    groups: int
    fingerprint: str
    name: str = field(default="members", init=False)

    def setup(self) -> None:
        super().setup()
        content = self.layout.slices(CENTROIDS, CENTROIDS).read_bytes()
        self._centroids = np.load(io.BytesIO(content), allow_pickle=False)
        if len(self._centroids) > 1:
            faiss().omp_set_num_threads(1)  # parallelism comes from worker processes

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        clusters, dimension = self._centroids.shape
        found = self._embedded(unit)
        records = np.empty(0 if found is None else len(found.ordinals), member_type(dimension))
        if found is not None and len(records):
            cluster, cosine = assign(unit_length(found.vectors), self._centroids)
            order = np.argsort(cluster, kind="stable")  # by ordinal within a cluster
            records["cluster"], records["cosine"] = cluster[order], cosine[order]
            records["ordinal"], records["vector"] = found.ordinals[order], found.vectors[order]
            records["uid_high"], records["uid_low"] = found.uids[order, 0], found.uids[order, 1]
        parts = member_parts(records["cluster"], clusters, self.groups)
        publish_bytes(self.layout.slices(self.name, unit), pack(records, parts, self.groups))
        return {"rows": len(records)}, [self.layout.slices(self.name, unit)]


@dataclass
class GroupStage(Stage):
    """A `Stage` whose units are groups of clusters. Each unit reads its slice of every caption
    unit's members."""

    layout: Layout
    rule: DedupRule
    groups: int
    dimension: int
    skip: frozenset[str]
    fingerprint: str
    name: str = field(default=duplicates_stage(SEMANTIC), init=False)
    part_of = "dedup"

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        group = int(unit)
        names = [(number, planned.name) for number, planned in enumerate(self._plan.units)]
        slices = (
            (number, self._slice(name, group)) for number, name in names if name not in self.skip
        )
        rule = self.rule
        found = duplicates(slices, self.dimension, rule.eps, rule.keep, rule.against)  # type: ignore[arg-type]
        write_entries(self.layout.data(self.name, unit), [found])
        return {"rows": found.num_rows}, [self.layout.data(self.name, unit)]

    def _slice(self, name: str, group: int) -> NDArray[np.void]:
        path = self.layout.slices("members", name)
        return read_slice(
            partial(read_range, path),
            member_type(self.dimension),
            self.groups,
            group,
            group + 1,
            str(path),
        )
