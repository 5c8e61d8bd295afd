"""Store what a two-tower teacher says about the pairs of a data set: embeddings of images and
captions, per shard.

A unit is a shard. Embeddings that stage `score` of `make filter` has stored are taken over where
model, weights, precision and crop are the same; only the other rows are encoded.
`open_diht.trainer.embeddings` reads the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from open_diht.common.command_line import WrongUse
from open_diht.common.crops import crop_box, crop_of, cropped, middle
from open_diht.common.devices import AUTO
from open_diht.common.shard_index import packed_keys
from open_diht.common.spelling import spelled_option
from open_diht.filters.spotting.decode import UnreadableImage
from open_diht.pipelines.engine.ahead import prepared_ahead
from open_diht.pipelines.engine.stage import Done
from open_diht.pipelines.manifests import UnreadableFile
from open_diht.pipelines.manifests.plan import load_plan
from open_diht.pipelines.stages.encoders import Encoder, find_pair_encoder
from open_diht.pipelines.stages.encoding import READABLE, matrix
from open_diht.pipelines.stages.score.stage import MOST_CHARS, settled_precision
from open_diht.pipelines.stages.score.stored import IMAGES, SCORE, TEXTS, stored_rows
from open_diht.pipelines.stages.shards import PER_SHARD, kept_ordinals
from open_diht.pipelines.store.commit import (
    publish_arrays,
    publish_json,
    read_json,
    remove,
    retract,
)
from open_diht.pipelines.store.layout import Layout, image_unit_name
from open_diht.pipelines.store.records import CommitRecord, Fingerprints, fingerprint_of
from open_diht.pipelines.store.storage import StorePath, sizes
from open_diht.pipelines.teachers import cosines, datacompdr
from open_diht.pipelines.teachers.extract import Bad, Features
from open_diht.pipelines.teachers.features import Batches, Begun, ExtractedRecord, Extracting, Keys
from open_diht.pipelines.teachers.options import CROP_SCALE, EmbeddingOptions
from open_diht.pipelines.teachers.run import (
    ShardRun,
    ShardSettings,
    check_output,
    locked,
    outdated,
    reading_data,
)
from open_diht.pipelines.teachers.shards import CAPTION, Pair, pairs_of, shard_entries

NAME = "embeddings"
VERSION = 1  # of the files that training reads
# samples; a caption that fewer than 1 in 100 have would end a training (data.max_bad_share)
_LOOKED_AT = 100
Half = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings(ShardSettings, EmbeddingOptions):
    """The settings of a run."""

    encoder: str
    """Name of the teacher, see `stages.encoders`; it has texts."""
    seed: int = 0
    """Seed of the crops."""
    crop_scale: tuple[float, float] = CROP_SCALE
    """Range of the fraction of the area that a drawn crop keeps, as `transform.crop_scale` of a
    training."""
    captions: tuple[str, ...] = (CAPTION,)
    """Captions to embed: `caption` is the text of the .txt, others are fields of the .json."""

    def about(self) -> dict[str, Any]:
        """Return what the embeddings of a teacher depend on, for the manifest."""
        several = self.crops > 1
        return {
            "crops": self.crops,
            "seed": self.seed if several else 0,
            "crop_scale": list(self.crop_scale) if several else None,
            "captions": list(self.captions),
        }


@dataclass(kw_only=True)
class EmbeddingStage(Extracting):
    """The stage that stores embeddings. A sample's row has the embeddings of its crops, then those
    of its captions."""

    filtered: Layout
    """The data set."""
    encoder: str
    about: dict[str, Any]
    """See `EmbeddingSettings.about`."""
    scored: str
    """Fingerprint of the embeddings of stage `score` that can be taken over; "" for none."""
    name = NAME

    @cached_property
    def _encoder(self) -> Encoder:
        """The encoder, loaded on first use: no use if all rows are taken over."""
        found: Encoder = self.shared.acquire(
            lambda: Encoder(
                find_pair_encoder(self.encoder), self.device, self.precision, self.batch_size
            )
        )
        return found

    def samples(self, path: StorePath) -> Iterator[tuple[str, Any]]:
        return pairs_of(path, self.about["captions"])

    def features(self, batches: Batches) -> Iterator[tuple[Keys, Features]]:
        self._temperature: float | None = None
        self._taken = known = self._known(batches.path.stem)
        prepare = partial(self._prepared, known)
        for keys, samples in prepared_ahead(
            batches, prepare, 0 if self.device == "cpu" else self.threads
        ):
            yield keys, self._embedded(samples)

    def _known(self, unit: str) -> dict[str, tuple[Half, Half]]:
        """Return the embeddings of image and caption that stage `score` has stored for a shard, by
        key. Keep their temperature."""
        parent, _, number = unit.rpartition("-")
        captions = read_json(self.filtered.commit("captions", parent)) if self.scored else None
        if captions is None:
            return {}
        plan = load_plan(self.filtered.plan)
        images = (image_unit_name(parent, n) for n in plan.image_units(captions))
        records: list[CommitRecord | None] = [
            read_json(self.filtered.commit(SCORE, name)) for name in images
        ]
        scored = [record for record in records if record]
        if any(record["fingerprint"].partition("-")[0] != self.scored for record in scored):
            return {}  # some rows are of another model
        self._temperature = next((float(record["temperature"]) for record in scored), None)
        kept = kept_ordinals(self.filtered, parent)
        ordinals = kept[int(number) * PER_SHARD :][:PER_SHARD]
        table = stored_rows(
            self.filtered,
            SCORE,
            plan,
            parent,
            ["ordinal", "uid", "status", IMAGES, TEXTS],
            ordinals,
        )
        if not table.num_rows:
            return {}
        rows = zip(
            table["uid"].to_pylist(),
            table["ordinal"].to_pylist(),
            table["status"].to_pylist(),
            strict=True,
        )
        pairs = zip(rows, matrix(table[IMAGES]), matrix(table[TEXTS]), strict=True)
        return {
            f"{uid}-{ordinal:06d}": (image, text)
            for (uid, ordinal, status), image, text in pairs
            if status == READABLE
        }

    def _prepared(
        self, known: Mapping[str, tuple[Half, Half]], sample: Pair
    ) -> tuple[list[Any], list[Any]]:
        """Return for each crop its embedding, the encoder's input or a reason, and for each caption
        its embedding or text."""
        key, content, captions = sample
        image, text = known.get(key, (None, None))
        texts: list[Any] = [
            text if text is not None and name == CAPTION else caption[:MOST_CHARS]
            for name, caption in zip(self.about["captions"], captions, strict=True)
        ]
        scale = self.about["crop_scale"]
        if scale is None and image is not None:
            return [image], texts
        pixels = self._encoder.decode(content or b"")
        if isinstance(pixels, UnreadableImage):
            return [pixels] * self.about["crops"], texts
        if scale is None:
            return [self._encoder.tensor(pixels)], texts
        whole = middle(Image.fromarray(pixels, "RGB"))
        boxes = (
            crop_box(crop_of(self.about["seed"], key, crop), *whole.size, scale)
            for crop in range(self.about["crops"])
        )
        views = (cropped(whole, box, self._encoder.size) for box in boxes)
        return [self._encoder.tensor(np.asarray(view)) for view in views], texts

    def _embedded(self, samples: Sequence[tuple[list[Any], list[Any]]]) -> Features:
        crops, captions = ([one for sample in samples for one in sample[part]] for part in (0, 1))
        asked = [
            place
            for place, one in enumerate(crops)
            if not isinstance(one, np.ndarray | UnreadableImage)
        ]
        named = [place for place, one in enumerate(captions) if isinstance(one, str) and one]
        for place, vector in zip(
            asked, self._encoder.embed([crops[n] for n in asked]) if asked else (), strict=True
        ):
            crops[place] = vector
        for place, text in zip(
            named, self._encoder.texts([captions[n] for n in named]) if named else (), strict=True
        ):
            captions[place] = text
        all_ = [one if isinstance(one, np.ndarray) else None for one in (*crops, *captions)]
        nothing = np.zeros(next((len(one) for one in all_ if one is not None), 0), np.float16)
        flat = np.stack([nothing if one is None else one for one in all_])
        rows = np.hstack(
            [part.reshape(len(samples), -1) for part in (flat[: len(crops)], flat[len(crops) :])]
        )
        each = self.about["crops"]
        failed = {
            place // each: one
            for place, one in enumerate(crops)
            if isinstance(one, UnreadableImage)
        }
        return Features(
            rows, {place: Bad(str(one.reason), one.message) for place, one in failed.items()}
        )

    def publish(self, unit: str, begun: Begun) -> Done:
        rows = begun.rows()
        crops = self.about["crops"]
        texts = len(self.about["captions"])
        if not rows.shape[1]:  # no image and no caption could be embedded
            rows = np.zeros((len(rows), (crops + texts) * self._encoder.dimension), np.float16)
        stored = rows.reshape(len(rows), crops + texts, rows.shape[1] // (crops + texts))
        image = stored[:, :crops]
        text = stored[:, crops:]
        path = self.layout.root / _file_of(unit)
        publish_arrays(path, keys=packed_keys(begun.keys), image=image, text=text)
        return {
            "dimension": stored.shape[2],
            "temperature": self._temperature or self._encoder.temperature,
            "taken_over": sum(key in self._taken for key in begun.keys),
            "without_text": (~text.any(axis=2)).sum(axis=0).tolist(),
        }, [path]


def _file_of(unit: str) -> str:
    """Return the path of a shard's embeddings in OUTPUT. `unit` is the shard's file name without
    .tar."""
    return f"targets/{unit}.npz"


def check_captions(settings: EmbeddingSettings) -> None:
    """Raise WrongUse if none of the first samples of a shard has a caption. Otherwise a typing
    error would show hours later, as rows of zeros."""
    if settings.captions == (CAPTION,):
        return
    with reading_data(settings):
        unit = next(iter(shard_entries(settings.data)))
    path = settings.data / "shards" / f"{unit}.tar"
    found = list[list[str]]()
    with suppress(UnreadableFile, OSError):  # reported when the shard is embedded
        found += (
            texts for _, (_, _, texts) in islice(pairs_of(path, settings.captions), _LOOKED_AT)
        )
    for name, texts in zip(settings.captions, zip(*found, strict=True), strict=False):
        if not any(texts):
            raise WrongUse(
                f"{path}: the first {len(found)} samples have no text {name!r}; name fields of"
                f" their .json in {spelled_option('captions', 'caption,NAME')}"
            )


def store_embeddings(settings: EmbeddingSettings, say: Callable[[str], None]) -> int:
    """Store the missing embeddings. Return the exit status, like `run` of concepts, whose errors
    this raises too."""
    with reading_data(settings):
        shards = shard_entries(settings.data)
        made = read_json(settings.data / "run.json") or {}
    identity = find_pair_encoder(settings.encoder).identity()
    layout = Layout(settings.output)
    check_output(layout, [NAME], ["targets"])
    scored = made.get("models", {}).get(SCORE, {})
    if scored.get("encoder") != identity:
        scored = {}
    asked = scored.get("precision", AUTO) if settings.precision == AUTO else settings.precision
    settings.check_device(asked)
    request = fingerprint_of(VERSION, identity, settings.about())
    with locked(settings, layout, request, say) as lock:
        precision = settled_precision(layout, identity, asked, settings.torch_device, NAME)
        return _Run(
            settings=settings,
            engine=settings.engine(layout, say),
            shards=shards,
            precision=precision,
            asked=request,
            lock=lock,
            teacher={**identity, "precision": precision},
            scored=scored["fingerprint"] if scored.get("precision") == precision else "",
        ).do()


@dataclass(kw_only=True)
class _Run(ShardRun):
    """The state of one invocation of `store_embeddings`."""

    settings: EmbeddingSettings
    teacher: dict[str, str]
    scored: str
    """See `EmbeddingStage.scored`."""

    @property
    def _manifest(self) -> StorePath:
        return self.layout.root / "targets" / "manifest.json"

    def do(self) -> int:
        """Do the shard's part. The last shard, or a run without shards, writes the manifest. Return
        the exit status."""
        retract(self._manifest)  # no training may take unfinished output for finished
        of_cosines = self.layout.root / cosines.NAME / "manifest.json"
        retract(of_cosines)
        settings = self.settings
        units = list(self.shards)
        known = self._fingerprints
        if settings.shard:
            sharing = self._sharing(units)
            if not self._embed(sharing.own(units)):
                return 1
            left = sharing.wait(
                units,
                lambda left: outdated(self.engine, NAME, {unit: known[unit] for unit in left}),
            )
            if left or not sharing.take_alone():
                return 0
        self.engine.clear_up()
        if not self._embed(units):
            return 1
        good = self._finish()
        if settings.datacompdr:
            written = {unit: fingerprint_of(datacompdr.VERSION, one) for unit, one in known.items()}
            published = Fingerprints.published(self.layout, datacompdr.NAME, written)
            stage = datacompdr.DatacompdrStage(
                self.layout, settings.data / "shards", published, settings.about()
            )
            good &= self._do(stage, units)
        if settings.cosine:
            written = {unit: fingerprint_of(cosines.VERSION, one) for unit, one in known.items()}
            published = Fingerprints.published(self.layout, cosines.NAME, written)
            caption = settings.captions.index(CAPTION)
            if self._do(cosines.CosineStage(self.layout, published, caption), units):
                files = [f"{unit}.parquet" for unit in units]
                publish_json(of_cosines, {"teacher": self.teacher, "files": files})
            else:
                good = False
        return 0 if good else 1

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        about = [VERSION, self.teacher, self.settings.about()]
        return {unit: fingerprint_of(about, entry["sha256"]) for unit, entry in self.shards.items()}

    def _embed(self, units: Sequence[str]) -> bool:
        settings = self.settings
        stage = EmbeddingStage(
            filtered=Layout(settings.data),
            encoder=settings.encoder,
            about=settings.about(),
            scored=self.scored,
            **self._extracting(NAME, self._fingerprints),
        )
        return self._do(stage, units, settings.encoder)

    def _finish(self) -> bool:
        self.lock.fence.check()
        records = cast(dict[str, ExtractedRecord], dict(self.engine.committed(NAME, self.shards)))
        of_all = list(records.values())
        rows = sum(record["rows"] for record in of_all)
        without = np.sum([record["without_text"] for record in of_all], axis=0).tolist()
        captions = self.settings.captions
        content = {
            "version": VERSION,
            "command": list(self.settings.command),
            "teacher": self.teacher,
            "dimension": of_all[0]["dimension"],
            "temperature": of_all[0]["temperature"],
            **self.settings.about(),
            "samples": rows,
            "without_text": dict(zip(captions, without, strict=True)),
            "shards": [
                {
                    "shard": entry["shard"],
                    "file": f"{unit}.npz",
                    "samples": records[unit]["rows"],
                    "sha256": records[unit]["hashes"][_file_of(unit)],
                    "bytes": records[unit]["files"][_file_of(unit)],
                    "tar_sha256": entry["sha256"],
                }
                for unit, entry in self.shards.items()
            ],
        }
        listed = {entry["file"] for entry in content["shards"]}
        for name in sizes(self._manifest.parent):  # of removed shards
            if name.endswith(".npz") and name not in listed:
                remove(self._manifest.parent / name)
        publish_json(self._manifest, content)
        taken = sum(record["taken_over"] for record in of_all)
        few = [f"{n:,} have no {name}" for name, n in zip(captions, without, strict=True) if n]
        self.say(
            f"embeddings: {rows:,} images in {len(of_all)} shards, {self.settings.crops} of each"
            f" image and {len(captions)} of its captions, {taken:,} taken over from stage score, in"
            f" {self._manifest.parent}" + "".join(f"; {one}" for one in few)
        )
        return self._is_good(NAME, of_all)
