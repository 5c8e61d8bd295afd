"""Decontamination: fingerprints of the images of rows, their comparison with evaluation sets, and
the rule.

Stage `fingerprints` reads images, over image units, and depends on no set. Stage `evaluation`
compares a unit's fingerprints with those of the sets, and the filter applies the thresholds. So
other sets need no image again, and other thresholds not even a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.naming import listing
from open_diht.common.spelling import spelled_option
from open_diht.filters import copies
from open_diht.filters.cascade import NO_REASON, NotLookedAt, Reasons, Step
from open_diht.filters.columns import ColumnCondition
from open_diht.filters.decontamination import (
    BY_EMBEDDING,
    BYTES,
    CAPTION,
    EVALUATION_CAPTION,
    EVALUATION_IMAGE,
    EVIDENCE,
    MOST_BITS,
    MOST_EPS,
    NEAR,
    PIXELS,
    EvaluationRule,
)
from open_diht.filters.spotting.decode import UnreadableImage
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests import MissingImage
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.report.funnel import Checked, FunnelRecord
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.annotator import Made
from open_diht.pipelines.stages.captions import wanted_rows
from open_diht.pipelines.stages.encoders import BATCH, Encoder, find_encoder
from open_diht.pipelines.stages.encoding import READABLE, embedding_of, matrix, vectors
from open_diht.pipelines.stages.evaluation_sets import (
    EVALUATION,
    find_sets,
    fingerprints_of,
    normalized,
    table_of_sets,
)
from open_diht.pipelines.stages.score.stored import IMAGES, SCORE, stored_rows
from open_diht.pipelines.stages.segments import SegmentAnnotator, WantedRows, check_images
from open_diht.pipelines.stages.vectors import unit_length
from open_diht.pipelines.store.commit import RunFailed, TableFile, publish_table
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, Fingerprints, fingerprint_of
from open_diht.pipelines.store.storage import StorePath, read_table

IMAGE_HASHES = "fingerprints"
VERSION = 1
"""Increase the version when equal fingerprints may be compared differently."""
EMBEDDING_COLUMN = "embedding"
"""Column of the stage's files with embeddings, if semantic de-duplication is on."""
# Rows whose cosines with all evaluation images are in memory: 400 MB of float32 with 400,000 of
# these images.
_TILE = 256
_IMAGE_HASHES = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("sha256", pa.binary()),
        ("pixels", pa.binary()),
        ("hashes", pa.binary()),
        ("status", pa.string()),
    ]
)
_MATCHES = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("read", pa.bool_()),
        ("exact", pa.int64()),
        ("same_bytes", pa.bool_()),
        ("near", pa.int64()),
        ("bits", pa.float32()),
        ("alike", pa.int64()),
        ("cosine_distance", pa.float32()),
    ]
)
"""The nearest evaluation images of a row, by their place in the table of the sets, or -1."""


def encoder_of(settings: RunSettings) -> str | None:
    """Return the encoder whose embeddings are compared, which semantic de-duplication uses, or None
    if it is off."""
    rule = settings.preset.dedup
    return rule.encoder if rule.semantic and "dedup" in settings.stages else None


@dataclass
class FingerprintStage(SegmentAnnotator):
    """See `SegmentStage`. This stage stores digests, perceptual hashes and embeddings of images."""

    layout: Layout
    dataset: Dataset
    fingerprint: str
    survivors: WantedRows
    encoder: str | None
    """The name that `encoder_of` returns. It is None if stage `score` has embedded the images with
    this encoder."""
    name: str = field(default=IMAGE_HASHES, init=False)
    counted = noun = "images"
    nothing: ClassVar[CommitRecord] = {"images": 0, "bad": 0}

    @classmethod
    def runs(cls, settings: RunSettings) -> bool:
        return settings.decontaminate is not None or settings.preset.against.hashes

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        if not cls.runs(settings):
            return
        sets = settings.decontaminate
        if plan is not None and sets is None:
            asked = f"against.images: {settings.preset.against.images} of the preset"
            check_images(settings, plan, asked, "set it to none")
        elif plan is not None:
            option = spelled_option("decontaminate", sets)
            check_images(settings, plan, option, "leave it out")
        elif sets is not None:
            find_sets(sets)

    @classmethod
    def of_run(cls, settings: RunSettings, work: Work) -> Self:
        encoder = encoder_of(settings)
        identity = find_encoder(encoder).identity() if encoder else None
        if SCORE in settings.stages and work.models.get(SCORE, {}).get("encoder") == identity:
            encoder = identity = None
        fingerprint = fingerprint_of(copies.VERSION, identity, settings.dataset.images_root)
        work.models[IMAGE_HASHES] = {"encoder": identity, "fingerprint": fingerprint}
        return cls(work.layout, settings.dataset, fingerprint, wanted_rows(settings), encoder)

    @classmethod
    def row_filter(
        cls, settings: RunSettings, work: Work, sources: Mapping[str, Sequence[object]]
    ) -> EvaluationFilter | None:
        """Compare all units with the sets, and return the filter."""
        if settings.decontaminate is None:
            return None
        semantic = encoder_of(settings)
        rule = settings.preset.evaluation
        try:
            path, sets, unread_of = table_of_sets(
                settings.decontaminate, work.layout, semantic, work.say
            )
        except WrongUse as error:  # the sets were intact when the run began
            raise RunFailed(
                f"{error}; committed work is kept. Then run the same command to resume"
            ) from error
        encoder = work.models[IMAGE_HASHES]["encoder"]
        embedded = (
            None
            if semantic is None
            else (IMAGE_HASHES, EMBEDDING_COLUMN)
            if encoder
            else (SCORE, IMAGES)
        )
        comparison = fingerprint_of(VERSION, path.name, embedded)
        known = {unit: fingerprint_of(comparison, parts) for unit, parts in sources.items()}
        stage = MatchStage(
            work.layout, path, embedded, Fingerprints.published(work.layout, EVALUATION, known)
        )
        work.complete(stage, work.alive(known), quiet=True)
        compared, unread = (
            work.total(EVALUATION, work.alive(known), of) for of in ("rows", "unread")
        )
        work.models[EVALUATION] = {
            "sets": [{**asdict(one), "unread": unread_of[one.name]} for one in sets],
            "rule": {**asdict(rule), "eps": rule.eps if embedded else None},
            "compared": compared - unread,
            "unread": unread,
        }
        return EvaluationFilter(rule, path, listing([one.name for one in sets]), comparison)

    @classmethod
    def count(cls, made: Made, funnel: FunnelRecord) -> None:
        if checked := made.work.models.get(EVALUATION):
            funnel["checked"] = cast(Checked, checked)

    def fingerprint_of(self, unit: str) -> str:
        return embedding_of(self.fingerprint, self.downloads(unit))

    def setup(self) -> None:
        self._encoder = Encoder(find_encoder(self.encoder)) if self.encoder else None

    def add(
        self,
        unit: str,
        name: str,
        ordinals: NDArray[np.int64],
        record: CommitRecord,
        heartbeat: Heartbeat,
    ) -> list[StorePath]:
        path = self.layout.data(self.name, name)
        with TableFile(path) as out:
            images = self.images(unit, ordinals)
            while some := list(islice(images, BATCH)):
                table = self._table(some)
                out.write(table)
                record["images"] += table.num_rows
                record["bad"] += (
                    table.num_rows - pc.sum(pc.equal(table["status"], READABLE)).as_py()
                )
                heartbeat.beat(out.rows)
        return [path]

    def _table(self, some: list[tuple[int, bytes | MissingImage]]) -> pa.Table:
        rows: list[dict[str, object]] = []
        for ordinal, image in some:
            seen = (
                fingerprints_of(image, copies.views)
                if isinstance(image, bytes)
                else {"status": image.reason}
            )
            rows.append({"ordinal": ordinal, **seen})
        if self._encoder is None:
            return pa.Table.from_pylist(rows, _IMAGE_HASHES)
        embedded = self._encoder.encode(
            [image if isinstance(image, bytes) else b"" for _, image in some]
        )
        for row, vector in zip(rows, embedded, strict=True):
            if row["status"] == READABLE and isinstance(vector, UnreadableImage):
                row["status"] = str(vector.reason)
        table = pa.Table.from_pylist(rows, _IMAGE_HASHES)
        return table.append_column(EMBEDDING_COLUMN, vectors(embedded, self._encoder.dimension))  # type: ignore[arg-type]


@dataclass
class MatchStage(Stage):
    """A `Stage` over caption units, which finds the nearest evaluation images of their rows."""

    layout: Layout
    sets: StorePath
    """The table of the evaluation images."""
    embedded: tuple[str, str] | None
    """The stage that stored embeddings, and their column; or None without embeddings."""
    fingerprint: Fingerprints
    name: str = field(default=EVALUATION, init=False)
    part_of = IMAGE_HASHES

    def setup(self) -> None:
        table = read_table(self.sets)
        self._bytes, self._pixels = (
            _first_of(table[name].to_pylist()) for name in ("sha256", "pixels")
        )
        packed = [one or b"" for one in table["hashes"].to_pylist()]
        owners = np.repeat(
            np.arange(len(packed)), [len(one) // (8 * copies.WORDS) for one in packed]
        )
        hashes = np.frombuffer(b"".join(packed), "<u8").reshape(-1, copies.WORDS)
        self._index = copies.HashIndex(hashes, owners)
        places = np.flatnonzero(np.asarray(table["embedding"].is_valid()))
        known = table["embedding"].take(pa.array(places)).combine_chunks().flatten()
        self._vectors = (
            places,
            unit_length(np.asarray(known).reshape(len(places), -1 if len(places) else 1)),
        )

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        fingerprinted = stored_rows(
            self.layout, IMAGE_HASHES, self._plan, unit, _IMAGE_HASHES.names
        )
        n = fingerprinted.num_rows
        exact = np.full(n, -1, np.int64)
        same_bytes = np.zeros(n, bool)
        digests = fingerprinted["sha256"].to_pylist()
        images = fingerprinted["pixels"].to_pylist()
        for row, (digest, pixels) in enumerate(zip(digests, images, strict=True)):
            same_file = self._bytes.get(digest)
            same_bytes[row] = same_file is not None
            exact[row] = self._pixels.get(pixels, -1) if same_file is None else same_file
        read = np.asarray(fingerprinted["hashes"].is_valid())
        near = np.full(n, -1, np.int64)
        bits = np.full(n, np.nan, np.float32)
        looks = np.frombuffer(
            b"".join(fingerprinted["hashes"].drop_null().to_pylist()), copies.HASH
        ).reshape(-1, copies.VIEWS)
        near[read], bits[read] = self._index.nearest(looks, MOST_BITS)
        alike, distance = self._alike(fingerprinted["ordinal"], unit)
        values = [fingerprinted["ordinal"], read, exact, same_bytes, near, bits, alike, distance]
        path = self.layout.data(self.name, unit)
        publish_table(path, pa.table(values, schema=_MATCHES))
        return {"rows": n, "unread": int(n - read.sum())}, [path]

    def _alike(self, ordinals: pa.Array, unit: str) -> tuple[Any, Any]:
        """Return the place and 1 - cosine of the evaluation image with the nearest embedding, (n,)
        each."""
        nearest = np.full(len(ordinals), -1, np.int64)
        distance = np.full(len(ordinals), np.nan, np.float32)
        places, vectors_of_sets = self._vectors
        if self.embedded is None or not len(places):
            return nearest, distance
        stage, column = self.embedded
        embedded = stored_rows(self.layout, stage, self._plan, unit, ["ordinal", "status", column])
        embedded = embedded.filter(
            pc.and_(
                pc.equal(embedded["status"], READABLE),
                pc.is_in(embedded["ordinal"], ordinals.combine_chunks()),
            )
        )
        mine = np.searchsorted(ordinals, embedded["ordinal"])
        mat = matrix(embedded[column]) if embedded.num_rows else None
        for first in range(0, embedded.num_rows, _TILE):
            some = slice(first, first + _TILE)
            cosines = unit_length(mat[some]) @ vectors_of_sets.T  # type: ignore[index]
            best = cosines.argmax(axis=1)
            nearest[mine[some]], distance[mine[some]] = (
                places[best],
                1 - cosines[np.arange(len(best)), best],
            )
        far = ~(distance <= MOST_EPS)
        nearest[far], distance[far] = -1, np.nan
        return nearest, distance


def _first_of(values: list[bytes | None]) -> dict[bytes, int]:
    return {value: image for image, value in reversed([*enumerate(values)]) if value is not None}


@lru_cache(maxsize=2)
def _names(path: StorePath) -> tuple[pa.Table, dict[str, int]]:
    """Return set and item of each evaluation image, and for each of their captions the first image
    that has it."""
    table = read_table(path, ["set", "item", "captions"])
    image_of: dict[str, int] = {}
    for image, captions in enumerate(table["captions"].to_pylist()):
        for caption in captions or ():
            if text := normalized(caption):
                image_of.setdefault(text, image)
    return table, image_of


@dataclass(frozen=True)
class EvaluationFilter:
    """A `DecidesByNumbers` filter that rejects rows of evaluation sets, and exposes the
    evidence."""

    rule: EvaluationRule
    sets: StorePath
    names: str
    """The names of the sets, for the explanation."""
    about: str
    """A fingerprint of what was compared."""
    conditions: Sequence[ColumnCondition] = ()
    _last: dict[str, pa.Table] = field(default_factory=dict, compare=False, repr=False)

    @property
    def steps(self) -> Sequence[Step]:
        image = (
            f"The image is in an evaluation set ({self.names}): the same file, the {PIXELS}, or a"
            " near copy."
        )
        caption = f"The caption is that of an image of an evaluation set ({self.names})."
        steps = [Step(IMAGE_HASHES, EVALUATION_IMAGE, image, always=True)]
        return (
            [*steps, Step(IMAGE_HASHES, EVALUATION_CAPTION, caption, always=True)]
            if self.rule.captions
            else steps
        )

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.rule, self.about)

    def reasons(self, layout: Layout, unit: str, rows: pa.Table) -> Reasons:
        return self.reasons_of(self.measured(layout, unit, rows))

    def reasons_of(self, values: pa.Table) -> Reasons:
        how = np.asarray(values["evaluation_how"].to_pylist(), object)
        reasons: Reasons = np.full(values.num_rows, NO_REASON, object)
        reasons[[one is not None for one in how]] = EVALUATION_IMAGE
        reasons[how == CAPTION] = EVALUATION_CAPTION
        return reasons

    def measured(self, layout: Layout, unit: str, rows: pa.Table) -> pa.Table:
        if unit not in self._last:
            self._last.clear()
            self._last[unit] = read_table(layout.data(EVALUATION, unit))
        known = self._last[unit]
        places = np.searchsorted(known["ordinal"], rows["ordinal"])
        if not np.isin(rows["ordinal"], known["ordinal"]).all():
            raise NotLookedAt(
                f"unit {unit}: no stage has read the images of some rows, so they cannot be decided"
            )
        exact, same, near, bits, alike, cosine = (
            np.asarray(known[name])[places] for name in _MATCHES.names[2:]
        )
        table, captions = _names(self.sets)
        by_caption: Any = [-1] * rows.num_rows
        if self.rule.captions:
            by_caption = [captions.get(normalized(one), -1) for one in rows["caption"].to_pylist()]
        tried = (
            (BYTES, np.where(same, exact, -1), None),
            (PIXELS, exact, None),
            (NEAR, np.where(bits <= self.rule.distance, near, -1), bits),
            (BY_EMBEDDING, np.where(cosine <= self.rule.eps, alike, -1), cosine),
            (CAPTION, np.asarray(by_caption, np.int64), None),
        )
        item = np.full(rows.num_rows, -1, np.int64)
        how = np.full(rows.num_rows, None, object)
        distance = np.zeros(rows.num_rows, np.float32)
        for name, matches, value in tried:
            new = (item < 0) & (matches >= 0)
            item[new], how[new], distance[new] = (
                matches[new],
                name,
                0 if value is None else value[new],
            )
        absent = item < 0
        taken = table.select(["set", "item"]).take(pa.array(item, mask=absent))
        columns = [
            taken["set"],
            taken["item"],
            pa.array(how, pa.string()),
            pa.array(distance, mask=absent),
        ]
        return pa.table(columns, schema=EVIDENCE)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": {}}
