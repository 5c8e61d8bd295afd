"""Stage `score`: embed images and captions of rows that pass all earlier filters, and store their
similarity.

Its units are image units. Embeddings are stored in half precision. Similarities are computed from
the stored values in double precision, in which products and sums of such values are exact.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypedDict

import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared
from numpy.typing import ArrayLike, NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.devices import AUTO, best_precision, check_device, device_here, gpus_of
from open_diht.common.naming import counted
from open_diht.common.spelling import spelled_option
from open_diht.filters.presets import Preset
from open_diht.filters.score import CLIP_SCORE, MASKED_SCORE, NEG_CLIP_LOSS, TEXT_AREA
from open_diht.filters.spotting.decode import Pixels, UnreadableImage
from open_diht.filters.spotting.masking import mask_text, resized, text_area
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Records, Stage, hints_of
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.captions import annotations_fingerprint
from open_diht.pipelines.stages.columns import values_fingerprint
from open_diht.pipelines.stages.encoders import BATCH, Encoder, find_pair_encoder
from open_diht.pipelines.stages.encoding import (
    READABLE,
    Encoded,
    EncodingStage,
    matrix,
    statuses,
    vectors,
)
from open_diht.pipelines.stages.image_records import decided_rows
from open_diht.pipelines.stages.score.passes import (
    BATCHES,
    ROWS,
    THRESHOLDS,
    BatchStage,
    NegativeStage,
    RowStage,
    ThresholdStage,
)
from open_diht.pipelines.stages.score.stored import (
    IMAGES,
    MASKED,
    SCORE,
    TEXTS,
    VERSION,
    ScoreFilter,
    among,
)
from open_diht.pipelines.stages.segments import SegmentAnnotator
from open_diht.pipelines.stages.spotting import load_records
from open_diht.pipelines.stages.tally import VERSION as DECIDE_VERSION
from open_diht.pipelines.store.commit import publish_first, publish_json, read_json
from open_diht.pipelines.store.layout import Layout, place_of, unit_of
from open_diht.pipelines.store.records import CommitRecord, Fingerprints, fingerprint_of
from open_diht.pipelines.store.storage import StorePath, row_groups

# Not measured: enough images to keep a GPU busy, and few enough for a small one.
BATCH_OF_GPU = 256
NO_TEXT = "text_not_embedded"
MOST_CHARS = 4_096
"""Most characters of a caption that are embedded; tokenizers rarely read as many."""
_MASKED = "-masked-"
"""Part of the name of a set of rows with masked images. A fingerprint of the text read in them
follows."""
_BEFORE = ("captions", "download", "spotting")
"""Stages whose filters decide which rows are scored."""


NOTHING_MASKED = 0
"""The digest of an image without text."""


@dataclass(frozen=True)
class ImageText:
    """Where there is text in an image."""

    boxes: Sequence[ArrayLike]
    """Polygons, each with corners (k, 2) as (x, y) in pixels of the original."""
    size: tuple[int, int]
    """Width and height of the original in pixels."""

    @property
    def digest(self) -> int:
        """Return a number of 64 bits that changes with the boxes. It never equals
        `NOTHING_MASKED`."""
        parts: list[NDArray[Any]] = [
            np.asarray(self.size, np.int64),
            *(np.asarray(box, np.float32) for box in self.boxes),
        ]
        content = b"".join(len(part).to_bytes(4) + part.tobytes() for part in parts)
        return int.from_bytes(hashlib.sha256(content).digest()[:8], signed=True) or 1

    def painted_over(self, pixels: Pixels) -> tuple[Pixels, float]:
        """Return the decoded image, (h, w, 3), without its text, and the fraction of the image that
        text covers."""
        height, width = pixels.shape[:2]
        boxes = resized(self.boxes, self.size, (width, height))
        return mask_text(pixels, boxes), text_area(boxes, (width, height))


def text_of(records: pa.Table) -> dict[int, ImageText]:
    """Return the text of the images that have any, by ordinal, from rows of `RECORD`."""
    texts = {}
    for row in records.select(["ordinal", "width", "height", "spotted"]).to_pylist():
        if row["spotted"]:
            texts[row["ordinal"]] = ImageText(
                [line["box"] for line in row["spotted"]], (row["width"], row["height"])
            )
    return texts


@dataclass
class ScoreStage(EncodingStage, SegmentAnnotator):
    """The stage that scores rows; see `SegmentStage`."""

    layout: Layout
    dataset: Dataset
    preset: Preset
    before: tuple[str, ...]
    """Stages whose filters decide which rows are scored."""
    masked: bool
    """True if images are also scored without their text."""
    asked: str
    """Fingerprint of what decides which rows are scored, except for the text read in their
    images."""
    model: str
    fingerprint: str
    """Fingerprint of the model, its weights, the precision and --images-root."""
    device: str
    precision: str
    batch_size: int
    threads: int
    name: str = field(default=SCORE, init=False)
    shared: Shared = field(default_factory=Shared, init=False)
    """Handle of the model. A process holds one model, however many units it processes."""

    @property
    def hints(self) -> Mapping[str, str]:
        return hints_of(self.device)

    def setup(self) -> None:
        self._encoder: Encoder = self.shared.acquire(
            lambda: Encoder(
                find_pair_encoder(self.model), self.device, self.precision, self.batch_size
            )
        )

    @classmethod
    def applies(cls, settings: RunSettings, plan: Plan) -> bool:
        return settings.score is not None

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        super().check(settings, plan, say)
        if plan is not None or SCORE not in settings.stages:
            return
        if settings.score is None:
            if settings.preset.score.asks:
                raise WrongUse(
                    f"preset {settings.preset.name!r} needs CLIP scores, but no model is given;"
                    " pass --score-model (open_clip:<model>:<weights>, local-dir:<folder>,"
                    f" reference), or leave stage score out of {spelled_option('stages')}"
                )
            return
        if settings.dataset.several_captions:
            raise WrongUse(
                f"--score-model {settings.score.model} scores one caption of an image, and the rows"
                " have several; leave it out, or name one caption column with --caption-column"
            )
        if settings.preset.score.masked is not None and "spotting" not in settings.stages:
            raise WrongUse(
                f"preset {settings.preset.name!r} scores images without their text (score.masked),"
                f" and no stage finds the text; add spotting to {spelled_option('stages')}, or"
                " leave score.masked out of the preset"
            )
        find_pair_encoder(settings.score.model)
        if settings.backend.name == "direct" and settings.score.device != AUTO:
            check_device(settings.score.device, prefix="score-")

    @classmethod
    def of_run(cls, settings: RunSettings, work: Work) -> Self:
        assert settings.score is not None  # otherwise the stage is not part of the run
        options = settings.score
        known = work.models.get(SCORE)
        device = device_here() if options.device == AUTO else options.device
        # A digest of the weights.
        identity = known["encoder"] if known else find_pair_encoder(options.model).identity()
        precision = settled_precision(work.layout, identity, options.precision, device)
        fingerprint = fingerprint_of(VERSION, identity, precision, settings.dataset.images_root)
        about = {"model": options.model, "encoder": identity, "precision": precision}
        work.models[SCORE] = {**about, "device": device, "fingerprint": fingerprint}
        before = tuple(stage for stage in settings.stages if stage in _BEFORE)
        captions = annotations_fingerprint(settings)
        values = values_fingerprint(settings.dataset, settings.preset.columns)
        return cls(
            work.layout,
            settings.dataset,
            settings.preset,
            before,
            settings.preset.score.masked is not None,
            fingerprint_of(
                DECIDE_VERSION, settings.preset.filters_fingerprint, before, captions, values
            ),
            options.model,
            fingerprint,
            device,
            precision,
            options.batch_size or (BATCH if device == "cpu" else BATCH_OF_GPU),
            # Threads decode images while a GPU computes.
            (
                0
                if device == "cpu"
                else max(1, (os.cpu_count() or 1) // max(1, _workers(work, device)))
            ),
        )

    def workers(self, work: Work) -> int:
        return _workers(work, self.device)

    def prefetch(self, records: Records, units: Sequence[str]) -> None:
        super().prefetch(records, units)
        self._spotting = dict(records("spotting", units))

    def announce(
        self, work: Work, todo: Sequence[str], records: Sequence[CommitRecord], of: int
    ) -> str | None:
        others = sum(self.current(record["unit"], record) is None for record in records)
        if others:
            why = "scored by another model, version or setting, or of other downloads"
            return f"scoring again: {others:,} of {counted(of, 'unit')}, {why}"
        if records:
            text = ", and images whose text was not painted over" if self.masked else ""
            return (
                "the preset, STAGES, the caption annotations or the text in images changed; only"
                f" rows not scored before{text} will be scored"
            )
        return None

    def covered(self, unit: str) -> set[str]:
        return {self._rows_covered(unit), *self.sufficient(unit)}

    def sufficient(self, unit: str) -> set[str]:
        covered = self._rows_covered(unit)
        return {
            f"{covered}{_MASKED}{fingerprint_of(self._reading(unit))}" if self.masked else covered
        }

    def _rows_covered(self, unit: str) -> str:
        return fingerprint_of(self.asked, self._reading(unit))

    def _reading(self, unit: str) -> list[Any]:
        """Return the state of the readings of a unit's images. Return [] if the text that was read
        decides nothing."""
        known = self.__dict__.get("_spotting", {})
        record = known[unit] if unit in known else read_json(self.layout.commit("spotting", unit))
        return (
            [record["fingerprint"], record["downloads"]]
            if record and "spotting" in self.before
            else []
        )

    def candidates(self, unit: str) -> NDArray[np.int64]:
        parent, number = place_of(unit)
        first = number * self._plan.image_rows
        stop = (number + 1) * self._plan.image_rows
        groups = decided_rows(
            self.layout, parent, [number], self.preset, self.before, span=(first, stop)
        )
        reaching = [
            np.asarray(some["ordinal"])[decided.passed].astype(np.int64) for some, decided in groups
        ]
        return np.concatenate(reaching)

    def wanted(self, unit: str, known: CommitRecord | None) -> NDArray[np.int64]:
        candidates = self.candidates(unit)
        scored = self.results(unit, known, MASKED)
        ordinals = np.asarray(scored["ordinal"])
        masked = np.asarray(scored[MASKED])
        if self.masked and len(ordinals):
            text = self._text_of(unit)
            now = {
                ordinal: text[ordinal].digest for ordinal in text.keys() & set(ordinals.tolist())
            }
            digests = np.array(
                [now.get(ordinal, NOTHING_MASKED) for ordinal in ordinals.tolist()], np.int64
            )
            ordinals = ordinals[masked == digests]
        return candidates[~np.isin(candidates, ordinals)]

    def _text_of(self, unit: str) -> dict[int, ImageText]:
        parent, number = place_of(unit)
        return text_of(load_records(self.layout, parent, [number]))

    def add(
        self,
        unit: str,
        name: str,
        ordinals: NDArray[np.int64],
        record: CommitRecord,
        heartbeat: Heartbeat,
    ) -> list[StorePath]:
        between = ("ordinal", int(ordinals[0]), int(ordinals[-1]) + 1)
        columns = ["ordinal", "uid", "caption"]
        groups = row_groups(self.layout.data("captions", unit_of(unit)), columns, between=between)
        self._rows_of = pa.concat_tables(group.filter(among(group, ordinals)) for group in groups)
        self._text = self._text_of(unit) if self.masked else {}
        self._areas: dict[int, float] = {}
        return super().add(unit, name, ordinals, record, heartbeat)

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        said, files = super().process(unit, before, heartbeat)
        covers: Any = said["covers"]
        if self.masked:  # what earlier readings covered has other boxes by now
            now = fingerprint_of(self._reading(unit))
            covers = [name for name in covers if name.partition(_MASKED)[2] in ("", now)]
        return {**said, "temperature": self._encoder.temperature, "covers": covers}, files

    def prepare(self, ordinal: int, image: bytes) -> list[Any]:
        pixels = self._encoder.decode(image)
        if isinstance(pixels, UnreadableImage):
            return [pixels]
        tensors = [self._encoder.tensor(pixels)]
        if ordinal in self._text:
            masked, self._areas[ordinal] = self._text[ordinal].painted_over(pixels)
            tensors.append(self._encoder.tensor(masked))
        return tensors

    def table(self, ordinals: list[int], found: list[list[Encoded]]) -> pa.Table:
        places = np.searchsorted(np.asarray(self._rows_of["ordinal"]), ordinals)
        rows = self._rows_of.take(pa.array(places))
        texts = self._encoder.texts(
            [(caption or "")[:MOST_CHARS] for caption in rows["caption"].to_pylist()]
        )
        # Without text they are the same.
        whole = [one for one, *_ in found]
        last = [one for *_, one in found]
        images, masked, captions = (
            vectors(some, self._encoder.dimension) for some in (whole, last, texts)
        )
        no_text = (NO_TEXT, "the model's embedding of the caption is zero or not finite")
        known = [
            next(
                (one for one in (image, without) if one[0] != READABLE),
                no_text if text is None else image,
            )
            for image, without, text in zip(statuses(whole), statuses(last), texts, strict=True)
        ]
        states, messages = zip(*known, strict=True)
        bad = np.array([state != READABLE for state in states], bool)
        digests = [
            self._text[ordinal].digest if ordinal in self._text else NOTHING_MASKED
            for ordinal in ordinals
        ]
        return pa.table(
            {
                "ordinal": pa.array(ordinals, pa.int64()),
                "uid": rows["uid"],
                "status": states,
                "message": messages,
                CLIP_SCORE: pa.array(similarities(images, captions), mask=bad),
                MASKED_SCORE: pa.array(similarities(masked, captions), mask=bad),
                TEXT_AREA: pa.array(
                    [self._areas.get(ordinal, 0.0) for ordinal in ordinals], pa.float32(), mask=bad
                ),
                MASKED: pa.array(digests, pa.int64()),
                IMAGES: images,
                TEXTS: captions,
            }
        )

    # ---- all units together

    @classmethod
    def row_filter(
        cls, settings: RunSettings, work: Work, sources: Mapping[str, Sequence[object]]
    ) -> ScoreFilter:
        """If needed, find the thresholds that keep the requested fractions of the rows, and the
        corrected scores."""
        rule = settings.preset.score
        stage = cls.of_run(settings, work)
        fractions = {name: keep for name, (_, keep) in rule.thresholds.items() if keep is not None}
        seen: list[tuple[str, str]] = []
        computed: dict[str, float | None] = {}
        if fractions or rule.negatives is not None:
            states = stage._come_to_rule(work, sources)
            scores = {CLIP_SCORE: states, MASKED_SCORE: states}
            if rule.negatives is not None:
                scores[NEG_CLIP_LOSS] = stage._negatives(work, states)
            total = work.total(ROWS, work.alive(sources))
            about = {
                name: fingerprint_of(list(scores[name].items()), keep)
                for name, keep in fractions.items()
            }
            thresholds = ThresholdStage(
                work.layout, fractions, total, frozenset(work.quarantined), about
            )
            stage._pass(work, thresholds, about, together=True)
            computed = {
                name: record["threshold"] for name, record in work.committed(THRESHOLDS, fractions)
            }
            seen = [*scores.get(NEG_CLIP_LOSS, {}).items()]
        bounds = {name: computed.get(name, least) for name, (least, _) in rule.thresholds.items()}
        about_all = fingerprint_of(
            sorted(bounds.items()), stage.masked, rule.negatives is not None, seen
        )
        return ScoreFilter.of(rule, bounds, about_all)

    def _come_to_rule(self, work: Work, sources: Mapping[str, Sequence[object]]) -> dict[str, str]:
        """Find the rows that reach the rules. Return for each unit the state that these rows depend
        on."""
        negatives = self.preset.score.negatives
        seed = 0 if negatives is None else negatives.seed
        about = fingerprint_of(
            DECIDE_VERSION, VERSION, self.preset.filters_fingerprint, self.before, seed
        )
        known = {unit: fingerprint_of(about, parts) for unit, parts in sources.items()}
        published = Fingerprints.published(work.layout, ROWS, known)
        self._pass(work, RowStage(work.layout, self.preset, self.before, seed, published), known)
        return {unit: known[unit] for unit in work.alive(known)}

    def _negatives(self, work: Work, states: dict[str, str]) -> dict[str, str]:
        """Compute the corrected scores. Return for each unit the state that they depend on."""
        layout = work.layout
        rule = self.preset.score.negatives
        assert rule is not None
        alive = work.alive(states)
        drawn = fingerprint_of(
            [states[unit] for unit in alive], rule.batch_size, rule.batches, rule.seed
        )
        skip = frozenset(work.quarantined)
        total = work.total(ROWS, alive)
        self._pass(work, BatchStage(layout, rule, skip, total, drawn), [BATCHES], together=True)
        records = (
            record
            for _, record in work.records(SCORE, work.image_units(alive))
            if record is not None
        )
        temperatures = (float(record["temperature"]) for record in records)  # the model's own
        temperature = rule.temperature or next(temperatures, 1.0)
        known = {unit: fingerprint_of(drawn, states[unit], temperature) for unit in alive}
        published = Fingerprints.published(layout, NEG_CLIP_LOSS, known)
        self._pass(work, NegativeStage(layout, temperature, self.device, published), known)
        return {unit: known[unit] for unit in work.alive(known)}

    def _pass(
        self, work: Work, stage: Stage, units: Iterable[str], *, together: bool = False
    ) -> None:
        """Process those units of a pass over all rows that are not done. `together`: each of them
        reads all caption units, so the run ends if one fails."""
        work.complete(
            stage, work.alive(units), quiet=together, workers=self.workers(work), fatal=together
        )


def similarities(images: pa.Array, texts: pa.Array) -> NDArray[np.float32]:
    """Return the cosine of each pair of unit vectors, (n,) float32."""
    one, other = (
        matrix(pa.chunked_array([column])).astype(np.float64) for column in (images, texts)
    )
    return np.einsum("nd,nd->n", one, other).astype(np.float32)


def _workers(work: Work, device: str) -> int:
    """Return how many units run at a time: as many as in other stages, but with runner direct at
    most one per GPU."""
    gpus = gpus_of(device) if work.backend.name == "direct" else []
    return min(work.workers, len(gpus)) if gpus else work.workers


class EncoderRecord(TypedDict):
    """The fields of `model.json`, which a stage with an encoder keeps in OUTPUT."""

    encoder: dict[str, str]
    precision: str


def settled_precision(
    layout: Layout, identity: Mapping[str, str], asked: str, device: str, stage: str = SCORE
) -> str:
    """Return the precision of a stage, and store it in OUTPUT. `AUTO` stands for the precision that
    OUTPUT has for this model, so that shards on different kinds of machines agree, or for the
    device's best if OUTPUT has none.
    """
    path = layout.work / stage / "model.json"
    ours: EncoderRecord = {
        "encoder": dict(identity),
        "precision": asked if asked != AUTO else best_precision(device),
    }
    # With `auto`, the first of several shards decides for all.
    known: EncoderRecord = ours if publish_first(path, ours) else read_json(path)
    if known["encoder"] == ours["encoder"] and asked in (AUTO, known["precision"]):
        return known["precision"]
    publish_json(path, ours)  # the model or precision has changed; rows are scored again
    return ours["precision"]
