"""Extract features of a frozen teacher for every image. A unit is a shard.

For a given batch size, batches depend only on the shard. So with equal processors and threads, the
results are the same bytes whether a run was undisturbed or was killed and resumed, and whether one
process or n shards made them. A unit's results are saved about every minute, and the next run with
the same settings resumes from there. The row of an image that cannot be decoded, or on which the
teacher fails, holds zeros and is marked.

While the teacher processes a batch on a GPU, threads decode the next ones: a GPU needs about a
dozen cores for that.
"""

from __future__ import annotations

import io
import json
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from apache_beam.utils.shared import Shared

from open_diht.common.shard_index import packed_keys, unpacked_keys
from open_diht.pipelines.engine.ahead import prepared_ahead
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage, hints_of
from open_diht.pipelines.manifests import UnreadableFile
from open_diht.pipelines.store.commit import publish_arrays, published, remove
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, Fingerprints
from open_diht.pipelines.store.storage import StorePath
from open_diht.pipelines.teachers.extract import Features, TeacherFailed, extracted, prepared
from open_diht.pipelines.teachers.shards import images_of
from open_diht.pipelines.teachers.teacher import LoadedTeacher, Teacher

KEEP_S = 60.0  # with its worker, a unit loses at most about this much work

Keys = list[str]
Reader = Callable[[StorePath], Iterator[tuple[str, Any]]]
"""Function that yields the key and the content of each sample of a shard, as `images_of` does."""


class ExtractedRecord(TypedDict, total=False):
    """Keys of the commit records of `Extracting` stages."""

    unit: str
    fingerprint: str
    files: dict[str, int]
    hashes: dict[str, str]
    rows: int
    bad: list[dict[str, str]]  # key, error and message of each bad image
    broken: dict[str, str] | None  # see `Batches.broken`
    width: int  # of features
    # Records of embeddings have these.
    dimension: int
    temperature: float | None
    without_text: list[int]  # number of samples without each caption
    taken_over: int  # number of rows from stage `score`


@dataclass(kw_only=True)
class Extracting(Stage):
    """A stage over shards that computes a row of numbers for each sample and resumes inside a
    shard, see `Stage`."""

    layout: Layout
    shards: StorePath
    fingerprint: Mapping[str, str] | Fingerprints
    """Fingerprint of each unit: model, precision and tar. The batch size is not part of it, so
    finished units remain valid if a user lowers the size for lack of memory. It changes only the
    last bits of features."""
    batch_size: int
    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    """Number of threads in each worker. On a CPU they compute; for a GPU they decode images."""
    shared: Shared = field(default_factory=Shared, init=False)
    """Holder of the model, so that each process loads it once for all units."""
    planned = False
    noun = "images"

    @property
    def hints(self) -> Mapping[str, str]:
        return hints_of(self.device)

    @abstractmethod
    def features(self, batches: Batches) -> Iterator[tuple[Keys, Features]]:
        """Yield keys and features of a shard's samples, batch by batch, after `setup`."""

    @abstractmethod
    def publish(self, unit: str, begun: Begun) -> Done:
        """Publish the features of a shard. Return further entries for its commit record, and the
        files."""

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        begun = Begun.read(self._begun_path(unit))
        batches = Batches(self.shards / f"{unit}.tar", self.batch_size, len(begun), self.samples)
        kept = time.monotonic()
        try:
            for keys, found in self.features(batches):
                begun.add(keys, found)
                heartbeat.beat(len(begun))
                if time.monotonic() - kept > KEEP_S:
                    begun.keep(self._begun_path(unit))
                    kept = time.monotonic()
        except TeacherFailed:  # a run with this batch size resumes from here
            begun.keep(self._begun_path(unit))
            raise
        said, files = self.publish(unit, begun)
        return {"rows": len(begun), "bad": begun.bad, "broken": batches.broken, **said}, files

    def samples(self, path: StorePath) -> Iterator[tuple[str, Any]]:
        """Yield the key and the content of each sample of a shard."""
        return images_of(path)

    def do(self, unit: str) -> Counter[str]:
        """See `Stage`."""
        counts = super().do(unit)
        remove(self._begun_path(unit))
        return counts

    def sweep(self) -> None:
        """Remove partial results when all units are committed. Some are left by a worker that was
        killed just after a commit, others by a run with other settings."""
        for path in (self.layout.work / self.name / "begun").glob("*"):
            remove(path)

    def _begun_path(self, unit: str) -> StorePath:
        name = (  # batches of another size end elsewhere
            f"{unit}.{self.fingerprint_of(unit)}.{self.batch_size}.npz"
        )
        return self.layout.work / self.name / "begun" / name


@dataclass(kw_only=True)
class FeatureStage(Extracting):
    """The stage that extracts a teacher's features."""

    teacher: Teacher
    name = "features"

    def setup(self) -> None:
        self._loaded: LoadedTeacher = self.shared.acquire(self._load)

    def _load(self) -> LoadedTeacher:
        import torch

        if self.device == "cpu":
            torch.set_num_threads(self.threads)
        return self.teacher.load(self.device, self.precision)

    def publish(self, unit: str, begun: Begun) -> Done:
        """Publish the rows, float16 (n, d), and `keys` and `good` (bool) of the rows."""
        rows = begun.rows()
        path = self.layout.data(self.name, unit)
        features = path.with_suffix(".npy")
        status = path.with_suffix(".npz")
        with published(features) as temporary, open(temporary, "wb") as file:
            np.save(file, rows)
        publish_arrays(status, keys=packed_keys(begun.keys), good=np.array(begun.good, np.bool_))
        return {"width": rows.shape[1]}, [features, status]

    def features(self, batches: Batches) -> Iterator[tuple[Keys, Features]]:
        """See `Extracting`. TeacherFailed names the batch."""
        prepare = partial(prepared, teacher=self._loaded)
        # On a CPU nothing is decoded ahead, because the teachers need the cores.
        for keys, images in prepared_ahead(
            batches, prepare, 0 if self.device == "cpu" else self.threads
        ):
            try:
                yield keys, extracted(images, self._loaded)
            except TeacherFailed as error:
                where = f"{batches.path.name}, {len(keys)} images from key {keys[0]} on"
                raise TeacherFailed(f"{where}: {error}") from error


class Batches:
    """The images of a shard in batches, without the first `skip` samples."""

    def __init__(self, path: StorePath, size: int, skip: int, read: Reader = images_of):
        self.path = path
        self._size = size
        self._skip = skip
        self._read = read
        self.broken: dict[str, str] | None = None
        """Error and message if the shard is corrupt or truncated; set at the end of the
        iteration."""

    def __iter__(self) -> Iterator[tuple[Keys, list[Any]]]:
        keys: Keys = []
        contents: list[Any] = []
        try:
            for number, (key, content) in enumerate(self._read(self.path)):
                if number < self._skip:
                    continue
                keys.append(key)
                contents.append(content)
                if len(keys) == self._size:
                    yield keys, contents
                    keys = []
                    contents = []
        except UnreadableFile as error:
            # Samples before the corrupt part are used, as in the trainer's loader.
            self.broken = {"error": error.error, "message": error.message}
        if keys:
            yield keys, contents


class Begun:
    """Partial results of a unit."""

    def __init__(self) -> None:
        self.keys: Keys = []
        self.good: list[bool] = []
        self.bad: list[dict[str, str]] = []
        self._rows: list[npt.NDArray[np.float16]] = []

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, keys: Keys, found: Features) -> None:
        """Add a batch."""
        self.keys += keys
        self.good += [place not in found.bad for place in range(len(keys))]
        self.bad += [
            {"key": keys[place], **asdict(bad)} for place, bad in sorted(found.bad.items())
        ]
        self._rows.append(found.rows)

    def rows(self) -> npt.NDArray[np.float16]:
        """Return the features (n, d), zeros for bad images."""
        width = max((rows.shape[1] for rows in self._rows), default=0)
        # Batches for which the teacher returned nothing have width 0.
        wide = [
            rows if rows.shape[1] else np.zeros((len(rows), width), np.float16)
            for rows in self._rows
        ]
        return np.concatenate(wide) if wide else np.zeros((0, 0), np.float16)

    def keep(self, path: StorePath) -> None:
        """Save the partial results."""
        bad = np.frombuffer(json.dumps(self.bad).encode(), np.uint8)
        good = np.array(self.good, np.bool_)
        publish_arrays(path, rows=self.rows(), good=good, keys=packed_keys(self.keys), bad=bad)

    @classmethod
    def read(cls, path: StorePath) -> Begun:
        """Load saved partial results; return empty ones if there are none."""
        begun = cls()
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return begun
        with np.load(io.BytesIO(content)) as found:
            begun.keys = unpacked_keys(found["keys"])
            begun.good = found["good"].tolist()
            begun.bad = json.loads(found["bad"].tobytes())
            begun._rows = [found["rows"]]
        return begun
