"""Features of a frozen teacher for every image, by Beam's RunInference.

    unit -> Read (batches of images) -> RunInference (features) -> Write (a part per batch; the last closes the unit)

A unit is a shard. Its images are batched where they are read, not by RunInference: which images share a batch is
then a function of the shard, so that a run that was killed ends with the same bytes as one that was not. An image that
cannot be decoded, or that the teacher fails on, costs its row, which is marked. Where the teacher itself fails the unit
is set aside with the reason; its other batches stay, and the next run does what is missing.

Each batch is published as a part of its own, so a unit that was interrupted goes on behind its last part. The unit is
closed by whoever publishes its last missing part, in whatever order batches come and wherever they ran: parts become
one array, the commit record follows, the parts go.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.ml.inference.base import RunInference

from pipelines.concepts.handler import GOOD, Features, Images, TeacherHandler
from pipelines.concepts.shards import images_of
from pipelines.concepts.teacher import Teacher
from pipelines.engine.progress import Heartbeat
from pipelines.engine.stage import TransformStage, failure, set_aside
from pipelines.manifests import UnreadableFile
from pipelines.store.commit import publish_json, published, read_json, remove, retract
from pipelines.store.layout import Layout
from pipelines.store.storage import StorePath


@dataclass
class FeatureStage(TransformStage):
    """See `TransformStage`."""

    layout: Layout
    shards: StorePath
    teacher: Teacher
    fingerprint: dict[str, str]
    """Unit to what its features depend on: teacher and tar. (The batch size moves their last bits only: who lowers it
    for want of memory keeps what is done.)"""
    batch_size: int = 32
    device: str = "cpu"
    threads: int = 1
    name: str = field(default="features", init=False)
    planned = False
    noun = "images"

    def transform(self) -> beam.PTransform[Any, Any]:
        """Unit names to committed units."""
        return _TeacherFeatures(self)

    def part(self, unit: str, number: int) -> StorePath:
        """Where a batch lies until its unit is closed."""
        return self.layout.work / self.name / "parts" / f"{self._prefix(unit)}.{number:06d}.npz"

    def end(self, unit: str) -> StorePath:
        """Says how many parts a unit has."""
        return self.part(unit, 0).with_name(f"{self._prefix(unit)}.end.json")

    def _prefix(self, unit: str) -> str:
        return f"{unit}.{self.fingerprint[unit]}.{self.batch_size}"  # a number means a batch of that size

    def sweep(self) -> None:
        """Remove the parts of units that were closed just before their worker was killed; when all units are closed."""
        for path in (self.layout.work / self.name / "parts").glob("*"):
            remove(path)


def feature_path(layout: Layout, unit: str) -> StorePath:
    """float16 array (n, d) of a shard."""
    return layout.data("features", unit).with_suffix(".npy")


def status_path(layout: Layout, unit: str) -> StorePath:
    """`keys` and `good` (bool) of its rows."""
    return layout.data("features", unit).with_suffix(".npz")


class _TeacherFeatures(beam.PTransform[Any, Any]):
    def __init__(self, stage: FeatureStage):
        super().__init__()
        self._stage = stage

    def expand(self, units: Any) -> Any:
        stage = self._stage
        handler = TeacherHandler(stage.teacher, stage.device, stage.threads)
        return (
            units
            | "Read" >> beam.ParDo(_Read(stage)).with_output_types(Images)
            | "Teacher" >> RunInference(handler)
            | "Write" >> beam.ParDo(_Write(stage))
        )


class _Read(beam.DoFn):
    """The images of a unit in batches, without those that have their part already."""

    def __init__(self, stage: FeatureStage):
        self._stage = stage

    def process(self, unit: str) -> Iterator[Images]:
        stage = self._stage
        mark = stage.layout.progress(stage.name, unit)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()  # a mark that outlives its worker says what the worker died of
        heartbeat = Heartbeat(mark)
        retract(stage.layout.commit(stage.name, unit))
        keys: list[str] = []
        contents: list[bytes | None] = []
        number, rows, broken = 0, 0, None

        def batch() -> Iterator[Images]:
            if not stage.part(unit, number).exists():
                yield Images(unit, number, tuple(keys), tuple(contents))
            heartbeat.beat(rows)

        try:
            for key, content in images_of(stage.shards / f"{unit}.tar"):
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
        yield Images(unit, number, batches=number, broken=broken)


class _Write(beam.DoFn):
    """Publishes parts, and closes units whose parts are all there."""

    def __init__(self, stage: FeatureStage):
        self._stage = stage

    def process(self, features: Features) -> None:
        stage, batch = self._stage, features.of
        if features.failed is not None:
            set_aside(stage, batch.unit, [failure("TeacherFailed", features.failed)])
            return
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
            stage.layout.progress(stage.name, batch.unit).unlink(missing_ok=True)  # also of a unit that is set aside
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
            "fingerprint": stage.fingerprint[unit],
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
