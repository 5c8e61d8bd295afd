"""Features of a frozen teacher for every picture, by Beam's RunInference.

    unit -> Read (batches of pictures) -> RunInference (features) -> Write (a part per batch; the last closes the unit)

A unit is a shard. Its pictures are batched where they are read, not by RunInference: which pictures share a batch is
then a function of the shard, so that a run that was killed ends with the same bytes as one that was not. A picture that
cannot be decoded costs its row, which is marked; a batch fails only where the teacher itself does.

Each batch is published as a part of its own, so a unit that was interrupted goes on behind its last part. The unit is
closed by whoever publishes its last missing part, in whatever order batches come and wherever they ran: parts become
one array, the commit record follows, the parts go.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.ml.inference.base import ModelHandler, RunInference
from PIL import Image

from filters.spotting.pictures import BadPicture, PictureLimits, decode_picture
from pipelines.commit import publish_json, published, read_json, remove, retract
from pipelines.concepts.shards import pictures_of
from pipelines.concepts.teacher import LoadedTeacher, Teacher
from pipelines.layout import Layout
from pipelines.manifests import UnreadableFile
from pipelines.progress import Heartbeat
from pipelines.storage import Place

GOOD = "ok"
NO_PICTURE = "missing_picture"
NOT_FINITE = "not_finite"
MAX_ASPECT = 20
"""Longer pictures lose their ends: teachers resize the shorter side, which would blow up a line of pixels, and look at
the middle."""


@dataclass(frozen=True)
class Pictures:
    """Some pictures of a unit, in its order; the one with `batches` set comes last and holds none."""

    unit: str
    number: int
    keys: tuple[str, ...] = ()
    contents: tuple[bytes | None, ...] = ()
    batches: int | None = None
    broken: dict[str, str] | None = None

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Features:
    """What became of them."""

    of: Pictures
    status: tuple[str, ...]
    """`ok`, or why there are no features."""
    messages: tuple[str, ...]
    rows: npt.NDArray[np.float16]
    """(n, d); zeros where the status is not ok."""


class TeacherHandler(ModelHandler[Pictures, Features, LoadedTeacher]):
    """The teacher as Beam calls it: load once per worker process, then batch after batch."""

    def __init__(self, teacher: Teacher, device: str, threads: int):
        super().__init__()
        self._teacher, self._device, self._threads = teacher, device, threads

    def load_model(self) -> LoadedTeacher:
        import torch

        torch.set_num_threads(self._threads)
        return self._teacher.load(self._device)

    def run_inference(
        self, batch: Sequence[Pictures] | Pictures, model: LoadedTeacher, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Features]:
        assert isinstance(batch, Pictures)
        status, messages, images = [], [], []
        for content in batch.contents:
            try:
                images.append(_image(content))
                status.append(GOOD)
                messages.append("")
            except BadPicture as error:
                status.append(str(error.reason) if content is not None else NO_PICTURE)
                messages.append(error.message)
        rows = np.zeros((len(batch), 0), np.float16)
        if images:
            with np.errstate(over="ignore"):
                found = model.features(images).astype(np.float16)
            rows = np.zeros((len(batch), found.shape[1]), np.float16)
            for place, row in zip([n for n, said in enumerate(status) if said == GOOD], found, strict=True):
                if np.isfinite(row).all():
                    rows[place] = row
                else:
                    status[place], messages[place] = NOT_FINITE, "a feature is no number, or above 65,504"
        return [Features(batch, tuple(status), tuple(messages), rows)]

    def should_skip_batching(self) -> bool:
        return True  # `Pictures` is a batch already

    def get_num_bytes(self, batch: Sequence[Pictures] | Pictures) -> int:
        assert isinstance(batch, Pictures)
        return sum(len(content or b"") for content in batch.contents)

    def get_metrics_namespace(self) -> str:
        return "concepts"


def _image(content: bytes | None) -> Image.Image:
    pixels = decode_picture(content or b"", PictureLimits(decode_side=0)).pixels
    height, width = pixels.shape[:2]
    top, left = max(0, (height - MAX_ASPECT * width) // 2), max(0, (width - MAX_ASPECT * height) // 2)
    middle = pixels[top : height - top, left : width - left, ::-1]
    return Image.fromarray(np.ascontiguousarray(middle))


@dataclass
class FeatureStage:
    """See `Stage`; its work is a transform instead of `process`, see `transform`."""

    layout: Layout
    shards: Place
    teacher: Teacher
    fingerprints: dict[str, str]
    """Unit to what its features depend on: teacher, batch size and tar."""
    batch_size: int = 32
    device: str = "cpu"
    threads: int = 1
    name: str = field(default="features", init=False)

    def transform(self) -> beam.PTransform:
        """Unit names to committed units."""
        return _TeacherFeatures(self)

    def part(self, unit: str, number: int) -> Place:
        """Where a batch lies until its unit is closed."""
        return self.layout.work / self.name / "parts" / f"{unit}.{self.fingerprints[unit]}.{number:06d}.npz"

    def end(self, unit: str) -> Place:
        """Says how many parts a unit has."""
        return self.part(unit, 0).with_name(f"{unit}.{self.fingerprints[unit]}.end.json")

    def sweep(self) -> None:
        """Remove the parts of units that were closed just before their worker was killed; when all units are closed."""
        for path in (self.layout.work / self.name / "parts").glob("*"):
            remove(path)

    def setup(self) -> None:
        """Nothing: the handler loads the model."""

    def teardown(self) -> None:
        """Nothing."""

    def process(self, unit: str) -> None:
        """Not called, see `transform`."""
        raise NotImplementedError("features are made by a transform")


def feature_path(layout: Layout, unit: str) -> Place:
    """float16 array (n, d) of a shard."""
    return layout.data("features", unit).with_suffix(".npy")


def status_path(layout: Layout, unit: str) -> Place:
    """`keys` and `good` (bool) of its rows."""
    return layout.data("features", unit).with_suffix(".npz")


class _TeacherFeatures(beam.PTransform):
    def __init__(self, stage: FeatureStage):
        super().__init__()
        self._stage = stage

    def expand(self, units: Any) -> Any:
        stage = self._stage
        handler = TeacherHandler(stage.teacher, stage.device, stage.threads)
        return (
            units
            | "Read" >> beam.ParDo(_Read(stage)).with_output_types(Pictures)
            | "Teacher" >> RunInference(handler)
            | "Write" >> beam.ParDo(_Write(stage))
        )


class _Read(beam.DoFn):
    """The pictures of a unit in batches, without those that have their part already."""

    def __init__(self, stage: FeatureStage):
        self._stage = stage

    def process(self, unit: str) -> Iterator[Pictures]:
        stage = self._stage
        mark = stage.layout.progress(stage.name, unit)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()  # a mark that outlives its worker says what the worker died of
        heartbeat = Heartbeat(mark)
        retract(stage.layout.commit(stage.name, unit))
        keys: list[str] = []
        contents: list[bytes | None] = []
        number, rows, broken = 0, 0, None

        def batch() -> Iterator[Pictures]:
            if not stage.part(unit, number).exists():
                yield Pictures(unit, number, tuple(keys), tuple(contents))
            heartbeat.beat(rows)

        try:
            for key, content in pictures_of(stage.shards / f"{unit}.tar"):
                keys.append(key)
                contents.append(content)
                rows += 1
                if len(keys) == stage.batch_size:
                    yield from batch()
                    keys, contents, number = [], [], number + 1
        except UnreadableFile as error:  # what stands before the break is used, as the trainer's loader does
            broken = {"error": error.error, "message": error.message}
        if keys:
            yield from batch()
            number += 1
        yield Pictures(unit, number, batches=number, broken=broken)


class _Write(beam.DoFn):
    """Publishes parts, and closes units whose parts are all there."""

    def __init__(self, stage: FeatureStage):
        self._stage = stage

    def process(self, features: Features) -> None:
        stage, batch = self._stage, features.of
        if batch.batches is None:
            bad = [
                {"key": key, "error": status, "message": message}
                for key, status, message in zip(batch.keys, features.status, features.messages, strict=True)
                if status != GOOD
            ]
            with published(stage.part(batch.unit, batch.number)) as temporary, open(temporary, "wb") as file:
                np.savez(
                    file,
                    rows=features.rows,
                    keys=_bytes("\n".join(batch.keys)),
                    good=np.array([status == GOOD for status in features.status], np.bool_),
                    bad=_bytes(json.dumps(bad)),
                )
        else:
            publish_json(stage.end(batch.unit), {"batches": batch.batches, "broken": batch.broken})
        self._close(batch.unit)

    def _close(self, unit: str) -> None:
        stage = self._stage
        end = read_json(stage.end(unit))
        if end is None:
            return
        paths = [stage.part(unit, number) for number in range(end["batches"])]
        if not all(path.exists() for path in paths):
            return
        try:
            parts = [dict(np.load(io.BytesIO(path.read_bytes()))) for path in paths]
        except FileNotFoundError:  # another worker has closed it since
            return
        self._commit(unit, parts, end["broken"])
        self._clear(unit)

    def _commit(self, unit: str, parts: list[dict[str, Any]], broken: dict[str, str] | None) -> None:
        stage = self._stage
        width = max((part["rows"].shape[1] for part in parts), default=0)
        keys = b"\n".join(part["keys"].tobytes() for part in parts)
        good = np.concatenate([part["good"] for part in parts]) if parts else np.zeros(0, np.bool_)
        rows = np.zeros((len(good), width), np.float16)
        rows[good] = np.concatenate([part["rows"][part["good"]] for part in parts if part["good"].any()] or [rows[:0]])
        with published(feature_path(stage.layout, unit)) as temporary, open(temporary, "wb") as file:
            np.save(file, rows)
        with published(status_path(stage.layout, unit)) as temporary, open(temporary, "wb") as file:
            np.savez(file, keys=np.frombuffer(keys, np.uint8), good=good)
        record = {
            "unit": unit,
            "fingerprint": stage.fingerprints[unit],
            "rows": len(good),
            "width": width,
            "bad": [entry for part in parts for entry in json.loads(part["bad"].tobytes())],
            "broken": broken,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        publish_json(stage.layout.commit(stage.name, unit), record)
        stage.layout.progress(stage.name, unit).unlink(missing_ok=True)

    def _clear(self, unit: str) -> None:
        """Remove the unit's parts, those of other settings too."""
        for path in self._stage.part(unit, 0).parent.glob(f"{unit}.*"):
            remove(path)


def _bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
