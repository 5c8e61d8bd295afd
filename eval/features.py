"""Features of images and texts, encoded once and kept: what zero-shot, retrieval, VQA and few-shot all read.

They lie under a key of what they depend on: the model (weights, architecture, precision, kind of device), versions of
libraries, the preprocessing, and the images or texts. A batch is written under a temporary name, flushed and renamed
as soon as it is encoded, so an interrupted run has every batch that it finished, and the next one encodes the others
and no more. The name of a batch holds the hash of its content: what was damaged since is encoded again. Several ranks
share the batches; the folder must be visible to all of them.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from open_diht.common.files import publish_bytes, publish_json
from open_diht.common.progress import ProgressBar
from open_diht.common.ranks import Ranks
from open_diht.eval.data.dataset import Images
from open_diht.eval.errors import DataBroken, EvalError, ModelError
from open_diht.eval.hashes import sha256_of, sha256_texts
from open_diht.eval.models.model import Model
from open_diht.eval.records import read_record

COUNTED = 4096
"""Texts whose tokens are counted at once."""
ENCODING = 1
"""Raised when a change of the code changes features: those kept before are then encoded again."""
_HASHED = 16
"""Letters of the hash in a batch's name."""


@dataclass(frozen=True)
class Features:
    """(n, d) float32 unit vectors on disk, in the order of `keys`."""

    folder: Path
    """Where the batches lie."""
    count: int
    """n."""
    width: int
    """d."""
    keys: Sequence[str]
    """Names of the rows; for texts, the texts."""
    truncated: int
    """Texts of which the model reads only the beginning."""
    places: np.ndarray | None = None
    """(n,) row on disk of each, where some are the same; None: as they come."""

    @functools.cached_property
    def _files(self) -> list[Batch]:
        return _batches(self.folder)

    def rows(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """(stop - start, d) float32, read from disk, into `out` where it is given: memory is that of the rows asked
        for."""
        found = np.empty((stop - start, self.width), dtype=np.float32) if out is None else out
        if self.places is not None:
            found[:] = self.take(np.arange(start, stop))
            return found
        for first, last, path in self._files:
            low, high = max(first, start), min(last, stop)
            if low < high:
                found[low - start : high - start] = np.load(path, mmap_mode="r")[low - first : high - first]
        return found

    def take(self, indices: np.ndarray) -> np.ndarray:
        """(k, d) float32, the rows at `indices` (k,), in their order."""
        found = np.empty((len(indices), self.width), dtype=np.float32)
        if self.places is not None:
            indices = self.places[indices]
        order = np.argsort(indices, kind="stable")
        wanted = indices[order]
        for first, last, path in self._files:
            low, high = np.searchsorted(wanted, (first, last))
            if low < high:
                found[order[low:high]] = np.load(path, mmap_mode="r")[wanted[low:high] - first]
        return found

    def all(self) -> np.ndarray:
        """(n, d) float32."""
        return self.rows(0, self.count)


class FeatureCache:
    """The folder of features, for one model at a time."""

    def __init__(
        self,
        folder: Path,
        model: Model,
        group: Ranks | None = None,
        *,
        batch: int = 64,
        text_batch: int = 256,
        workers: int = 0,
        progress: bool = False,
    ):
        """Open the folder; the ranks of `group` share the encoding.

        Args:
            folder: Where the features of all models lie.
            model: The model that encodes.
            group: The ranks, all of which see the folder.
            batch: Images that the encoder gets at once, and that an interruption can lose.
            text_batch: The same of texts.
            workers: Processes that read and preprocess images next to the encoder; 0 does it in this process.
            progress: Whether to show how far it is.
        """
        self._folder, self.model, self.group = folder, model, group or Ranks()
        self._batch, self._text_batch, self._workers = batch, text_batch, workers
        self._progress = progress

    def images(self, images: Images, what: str = "images") -> Features:
        """Features of all images. Raises `DataBroken` for one that cannot be read; what was encoded before stays."""

        def encode(batches: Sequence[range]) -> Iterator[np.ndarray]:
            for content in _preprocessed(images, self.model, batches, self._workers):
                yield self.model.images(content)

        key = sha256_of(["images", ENCODING, self.model.fingerprint, images.fingerprint])
        return self._filled(key, what, images.keys, self._batch, encode)

    def texts(self, texts: Sequence[str], what: str = "texts") -> Features:
        """Features of texts, in their order. Equal texts are encoded once: in two batches they would differ by
        rounding, and two classes of one name would not be tied."""
        place: dict[str, int] = {}
        places = [place.setdefault(text, len(place)) for text in texts]
        unique = list(place)

        def encode(batches: Sequence[range]) -> Iterator[np.ndarray]:
            for batch in batches:
                yield self.model.texts([unique[index] for index in batch])

        def truncated() -> int:  # in parts: the tokens of all texts at once would take more room than the texts
            return sum(self.model.truncated(texts[start : start + COUNTED]) for start in range(0, len(texts), COUNTED))

        key = sha256_of(["texts", ENCODING, self.model.fingerprint, sha256_texts(texts)])
        found = self._filled(key, what, unique, self._text_batch, encode, truncated)
        repeated = np.array(places) if len(unique) < len(texts) else None
        return replace(found, count=len(texts), keys=texts, places=repeated)

    def _filled(
        self,
        key: str,
        what: str,
        keys: Sequence[str],
        batch: int,
        encode: Callable[[Sequence[range]], Iterator[np.ndarray]],
        truncated: Callable[[], int] | None = None,
    ) -> Features:
        if not keys:
            raise DataBroken(f"{what}: nothing to encode")
        folder = self._folder / key[:32]
        # The leader says what is missing: ranks that looked themselves would see each other's work in progress.
        missing = self.group.share(_missing(folder, len(keys), batch) if self.group.first else None)
        mine = [missing[index] for index in self.group.part(len(missing))]
        error: EvalError | None = None
        try:
            done = len(keys) - sum(len(part) for part in missing)
            with ProgressBar(desc=what, total=len(keys), initial=done, disable=not self._progress) as bar:
                for part, features in zip(mine, encode(mine), strict=True):
                    _write(folder, part, features)
                    bar.update(min(len(part) * self.group.world, len(keys) - bar.n))
        except EvalError as caught:
            error = caught
        self.group.all_or_error(error)
        if self.group.first:
            _complete(folder, key, what, len(keys), truncated)
        self.group.collect(None)
        meta = read_record(folder / "meta.json", "width", "truncated")
        if meta is None:
            raise EvalError(f"rank {self.group.rank} does not see {folder}: the ranks must share one cache folder")
        return Features(folder=folder, count=len(keys), width=meta["width"], keys=keys, truncated=meta["truncated"])


def _write(folder: Path, rows: range, features: np.ndarray) -> None:
    """Raises `ModelError` for features that are no finite numbers, or not as many as rows."""
    if features.shape[:1] != (len(rows),) or not np.isfinite(features).all():
        raise ModelError(
            f"{folder}, rows {rows.start} to {rows.stop}: features are no {len(rows)} rows of finite numbers"
        )
    buffer = io.BytesIO()
    np.save(buffer, features)
    content = buffer.getvalue()
    publish_bytes(folder / f"{rows.start:09d}-{rows.stop:09d}-{_hash(content)}.npy", content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_HASHED]


def _complete(folder: Path, key: str, what: str, count: int, truncated: Callable[[], int] | None) -> None:
    batches = _batches(folder)
    if _gaps(batches, count):
        raise EvalError(f"{folder} lacks batches that other ranks wrote: the ranks must share one cache folder")
    if read_record(folder / "meta.json", "width", "truncated") is not None:
        return
    width = int(np.load(batches[0].path, mmap_mode="r").shape[1])
    cut = truncated() if truncated is not None else 0
    publish_json(folder / "meta.json", {"key": key, "what": what, "count": count, "width": width, "truncated": cut})


class Batch(NamedTuple):
    """A file of features."""

    first: int
    last: int
    """Behind the last row."""
    path: Path


def _batches(folder: Path) -> list[Batch]:
    """The batches that are there, in order, by their names."""
    found = []
    for path in folder.glob("[0-9]*-[0-9]*-*.npy"):
        first, last, _ = path.stem.split("-")
        found.append(Batch(int(first), int(last), path))
    return sorted(found)


def _missing(folder: Path, count: int, batch: int) -> list[range]:
    """The rows that no file has, in pieces of at most `batch`. A file that is not what its name says is removed."""
    sound = []
    for one in _batches(folder):
        if one.path.stem.endswith(_hash(one.path.read_bytes())):
            sound.append(one)
        else:
            one.path.unlink()  # damaged by something other than us; encoding it again is the remedy
    return [
        range(low, min(low + batch, stop)) for start, stop in _gaps(sound, count) for low in range(start, stop, batch)
    ]


def _gaps(batches: Sequence[Batch], count: int) -> list[tuple[int, int]]:
    """(first, last + 1) of rows that are in no batch."""
    gaps, reached = [], 0
    for first, last, _ in batches:
        if first > reached:
            gaps.append((reached, first))
        reached = max(reached, last)
    if reached < count:
        gaps.append((reached, count))
    return gaps


class _Loaded(Dataset[torch.Tensor]):
    """Preprocessed images by index; picklable, for loader processes."""

    def __init__(self, images: Images, preprocess: Callable[[Any], torch.Tensor]):
        self._images, self._preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self._images.keys)

    def __getitem__(self, index: int) -> torch.Tensor | DataBroken:  # type: ignore[override]
        # An error raised in a loader process loses its class on the way; as a value it arrives whole.
        try:
            return self._preprocess(self._images.open(index))
        except DataBroken as error:
            return error


def _collate(items: list[torch.Tensor | DataBroken]) -> torch.Tensor | DataBroken:
    for item in items:
        if isinstance(item, DataBroken):
            return item
    return torch.stack([item for item in items if isinstance(item, torch.Tensor)])


def _preprocessed(images: Images, model: Model, batches: Sequence[range], workers: int) -> Iterator[torch.Tensor]:
    loader = DataLoader(
        _Loaded(images, model.preprocess),
        batch_sampler=[list(batch) for batch in batches],
        num_workers=min(workers, len(batches)),
        collate_fn=_collate,
    )
    for content in loader:
        if isinstance(content, DataBroken):
            raise content
        yield content
