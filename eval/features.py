"""Features of images and texts, encoded once and cached for all tasks and probes.

The cache key covers the model (weights, architecture, precision, kind of device), library versions,
the preprocessing, and the images or texts. Each batch is written to a temporary name, flushed and
renamed as soon as it is encoded, so an interrupted run keeps its finished batches and the next run
encodes only the others. The name of a batch holds the hash of its content, so a damaged batch is
encoded again. Several ranks divide the batches; all of them must see the folder.
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
from open_diht.eval.models.model import Model
from open_diht.eval.records import read_record, sha256_of, sha256_texts

COUNTED = 4096
"""Texts that are tokenized at once to count the truncated ones."""
ENCODING = 1
"""Increased when a code change alters features, so that cached ones are encoded again."""
_HASHED = 16
"""Hex digits of the hash in a batch's name; 64 bits are enough to notice damage, and keep names
short."""


@dataclass(frozen=True)
class Features:
    """(n, d) float32 vectors of length 1 or zero, in the order of `keys`, read from disk."""

    folder: Path
    count: int
    width: int
    keys: Sequence[str]
    """Names of the rows. For texts these are the texts."""
    truncated: int
    """Number of texts that the model truncates."""
    places: np.ndarray | None = None
    """(n,) the row on disk of each vector, if several share a row. None means that the rows are in
    order."""

    @functools.cached_property
    def _files(self) -> list[Batch]:
        return _batches(self.folder)

    def rows(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return (stop - start, d) float32, in `out` if it is given, reading only these rows from
        disk."""
        found = np.empty((stop - start, self.width), dtype=np.float32) if out is None else out
        if self.places is not None:
            found[:] = self.take(np.arange(start, stop))
            return found
        for first, last, path in self._files:
            low = max(first, start)
            high = min(last, stop)
            # Rows that both this file and the range have.
            if low < high:
                found[low - start : high - start] = np.load(path, mmap_mode="r")[
                    low - first : high - first
                ]
        return found

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return (k, d) float32: the rows at `indices` (k,), in their order."""
        found = np.empty((len(indices), self.width), dtype=np.float32)
        if self.places is not None:
            indices = self.places[indices]
        # Sort, so that each file is opened once for all of its rows.
        order = np.argsort(indices, kind="stable")
        wanted = indices[order]
        for first, last, path in self._files:
            low, high = np.searchsorted(wanted, (first, last))
            if low < high:
                found[order[low:high]] = np.load(path, mmap_mode="r")[wanted[low:high] - first]
        return found

    def all(self) -> np.ndarray:
        """Return all (n, d) float32."""
        return self.rows(0, self.count)


class FeatureCache:
    """The folder of features, used with one model at a time."""

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
        """Open the folder, which all ranks of the group must see. With 0 workers, this process
        reads the images."""
        self._folder = folder
        self.model = model
        self.group = group or Ranks()
        self._batch = batch
        self._text_batch = text_batch
        self._workers = workers
        self._progress = progress

    def images(self, images: Images, what: str = "images") -> Features:
        """Return the features of all images. Raises `DataBroken` if one is unreadable; finished
        batches are kept."""

        def encode(batches: Sequence[range]) -> Iterator[np.ndarray]:
            for content in _preprocessed(images, self.model, batches, self._workers):
                yield self.model.images(content)

        key = sha256_of(["images", ENCODING, self.model.fingerprint, images.fingerprint])
        return self._filled(key, what, images.keys, self._batch, encode)

    def texts(self, texts: Sequence[str], what: str = "texts") -> Features:
        """Return the features of texts, in their order. Equal texts are encoded once: in two
        batches they could differ by rounding, and two classes of one name would not be tied."""
        place: dict[str, int] = {}
        places = [place.setdefault(text, len(place)) for text in texts]
        unique = list(place)

        def encode(batches: Sequence[range]) -> Iterator[np.ndarray]:
            for batch in batches:
                yield self.model.texts([unique[index] for index in batch])

        def truncated() -> int:
            # In parts: the tokens of all texts at once would need more memory than the texts.
            return sum(
                self.model.truncated(texts[start : start + COUNTED])
                for start in range(0, len(texts), COUNTED)
            )

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
        # The first rank finds the missing batches. Ranks that looked themselves would see each
        # other's work in progress.
        missing = self.group.share(_missing(folder, len(keys), batch) if self.group.first else None)
        mine = [missing[index] for index in self.group.part(len(missing))]
        error: EvalError | None = None
        try:
            done = len(keys) - sum(len(part) for part in missing)
            with ProgressBar(
                desc=what, total=len(keys), initial=done, disable=not self._progress
            ) as bar:
                for part, features in zip(mine, encode(mine), strict=True):
                    _write(folder, part, features)
                    # Count the other ranks' batches too: they progress at about the same pace.
                    bar.update(min(len(part) * self.group.world, len(keys) - bar.n))
        except EvalError as caught:
            error = caught
        self.group.all_or_error(error)
        if self.group.first:
            _complete(folder, key, what, len(keys), truncated)
        # A barrier: no rank reads the record before the first one has written it.
        self.group.collect(None)
        meta = read_record(folder / "meta.json", "width", "truncated")
        if meta is None:
            raise EvalError(
                f"rank {self.group.rank} does not see {folder}: the ranks must share one cache"
                " folder"
            )
        return Features(
            folder=folder,
            count=len(keys),
            width=meta["width"],
            keys=keys,
            truncated=meta["truncated"],
        )


def _write(folder: Path, rows: range, features: np.ndarray) -> None:
    """Write a batch. Raises `ModelError` if a feature is not finite, or features and rows differ in
    number."""
    if features.shape[:1] != (len(rows),) or not np.isfinite(features).all():
        raise ModelError(
            f"{folder}, rows {rows.start} to {rows.stop}: features are not {len(rows)} rows of"
            " finite numbers"
        )
    buffer = io.BytesIO()
    np.save(buffer, features)
    content = buffer.getvalue()
    publish_bytes(folder / f"{rows.start:09d}-{rows.stop:09d}-{_hash(content)}.npy", content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_HASHED]


def _complete(
    folder: Path, key: str, what: str, count: int, truncated: Callable[[], int] | None
) -> None:
    batches = _batches(folder)
    if _gaps(batches, count):
        raise EvalError(
            f"{folder} lacks batches that other ranks wrote: the ranks must share one cache folder"
        )
    # An earlier call or run has written the record.
    if read_record(folder / "meta.json", "width", "truncated") is not None:
        return
    width = int(np.load(batches[0].path, mmap_mode="r").shape[1])
    cut = truncated() if truncated is not None else 0
    publish_json(
        folder / "meta.json",
        {"key": key, "what": what, "count": count, "width": width, "truncated": cut},
    )


class Batch(NamedTuple):
    first: int
    last: int
    """The row after the last."""
    path: Path


def _batches(folder: Path) -> list[Batch]:
    """Return the existing batches in order, parsed from their file names."""
    found = []
    for path in folder.glob("[0-9]*-[0-9]*-*.npy"):
        first, last, _ = path.stem.split("-")
        found.append(Batch(int(first), int(last), path))
    return sorted(found)


def _missing(folder: Path, count: int, batch: int) -> list[range]:
    """Return the rows that no file has, in pieces of at most `batch`. Files with a wrong hash are
    deleted."""
    sound = []
    for one in _batches(folder):
        if one.path.stem.endswith(_hash(one.path.read_bytes())):
            sound.append(one)
        else:
            one.path.unlink()  # damaged from outside; encoding it again repairs it
    return [
        range(low, min(low + batch, stop))
        for start, stop in _gaps(sound, count)
        for low in range(start, stop, batch)
    ]


def _gaps(batches: Sequence[Batch], count: int) -> list[tuple[int, int]]:
    """Return the ranges (first, last + 1) of rows that are in no batch."""
    gaps = []
    reached = 0
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
        self._images = images
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._images.keys)

    def __getitem__(self, index: int) -> torch.Tensor | DataBroken:  # type: ignore[override]
        # A loader process would put its traceback into the message of an exception; a value arrives
        # intact.
        try:
            return self._preprocess(self._images.open(index))
        except DataBroken as error:
            return error


def _collate(items: list[torch.Tensor | DataBroken]) -> torch.Tensor | DataBroken:
    for item in items:
        if isinstance(item, DataBroken):
            return item
    return torch.stack([item for item in items if isinstance(item, torch.Tensor)])


def _preprocessed(
    images: Images, model: Model, batches: Sequence[range], workers: int
) -> Iterator[torch.Tensor]:
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
