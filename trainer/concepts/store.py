"""Features and labels of every shard, as `python -m open_diht.pipelines.teachers` stores them for
the heads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from open_diht.common.shard_index import unpacked_keys
from open_diht.common.spelling import spelled
from open_diht.trainer.errors import UNREADABLE, DataError
from open_diht.trainer.stores import LocalStore, store_at

VERSION = 1


class BadConcepts(DataError):
    """The folder cannot be used; the message says why."""


class Unfinished(BadConcepts):
    """There is no concepts.json or vocabulary.json, because not all features are stored yet."""


@dataclass(frozen=True)
class Labels:
    """The concepts of samples: sample i has ids[offsets[i]:offsets[i + 1]]."""

    offsets: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int32]

    def counts(self) -> npt.NDArray[np.int64]:
        """Return the number of concepts of each sample."""
        return np.diff(self.offsets)

    def of(self, rows: npt.NDArray[np.int64]) -> Labels:
        ids = [self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(each) for each in ids], dtype=np.int64)])
        return Labels(
            offsets.astype(np.int64), np.concatenate(ids) if ids else np.zeros(0, np.int32)
        )

    def padded(
        self, rows: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return ids and weights (n, most). Each of a sample's m concepts has the weight 1/m, and
        padding has 0."""
        counts = self.counts()[rows]
        most = max(1, int(counts.max(initial=0)))
        within = np.arange(most)[None, :] < counts[:, None]  # False for padding
        ids = np.zeros((len(rows), most), np.int64)
        places = self.offsets[rows][:, None] + np.arange(most)[None, :]
        ids[within] = self.ids[places[within]]
        return ids, np.where(within, 1 / np.maximum(counts, 1)[:, None], 0).astype(np.float32)


@dataclass(frozen=True)
class ShardConcepts:
    """The samples of one shard, in its order."""

    keys: list[str]
    good: npt.NDArray[np.bool_]
    """(n,) mask of images with features."""
    labels: dict[str, Labels]
    read_features: Callable[[], npt.NDArray[np.float16]]

    @cached_property
    def features(self) -> npt.NDArray[np.float16]:
        """Features (n, d), read on first use (a local file as a memory map). Raises `BadConcepts`,
        `StoreError`."""
        return self.read_features()


class ConceptStore:
    """An output folder of `make concepts`. Raises `BadConcepts`, and for a URL `WrongUse` or
    `StoreError`."""

    def __init__(self, folder: str | Path):
        self.folder = store_at(folder)
        try:
            self.about: dict[str, Any] = json.loads(self.folder.read("concepts.json"))
            self.vocabulary: dict[str, Any] = json.loads(self.folder.read("vocabulary.json"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Unfinished(
                f"{self.folder} lacks concepts.json or vocabulary.json: run `{spelled('concepts')}`"
            ) from error
        except ValueError as error:
            raise BadConcepts(
                f"{self.folder} cannot be read ({error}); run `{spelled('concepts')}` again"
            ) from error
        if (
            self.about.get("version") != VERSION
            or self.about["vocabulary_hash"] != self.vocabulary["hash"]
        ):
            raise BadConcepts(
                f"{self.folder} is unfinished, or of another version; run `{spelled('concepts')}`"
                " again"
            )

    @cached_property
    def heads(self) -> dict[str, int]:
        """Maps the name of a head to the number of its concepts."""
        return {head: len(entry["names"]) for head, entry in self.vocabulary["heads"].items()}

    @property
    def shards(self) -> list[dict[str, Any]]:
        """Entries of all shards, with unit, shard, tar_sha256 and rows."""
        return list(self.about["shards"])

    @property
    def width(self) -> int:
        """Width d of the features."""
        return int(self.about["width"])

    def load(self, entry: dict[str, Any]) -> ShardConcepts:
        """Load the shard of an entry of `shards`. Raises `BadConcepts` if files are missing,
        damaged or disagree."""
        unit = entry["unit"]
        try:
            with np.load(io.BytesIO(self._data("features", f"{unit}.npz"))) as status:
                keys = unpacked_keys(status["keys"])
                good = status["good"]
            with np.load(io.BytesIO(self._data("labels", f"{unit}.npz"))) as stored:
                labelled = unpacked_keys(stored["keys"])
                labels = {
                    head: Labels(stored[f"{head}.offsets"], stored[f"{head}.ids"])
                    for head in self.heads
                }
        except UNREADABLE as error:
            raise BadConcepts(
                f"shard {entry['shard']}: {error}; run `{spelled('concepts')}` again"
            ) from error
        if keys != labelled:
            where = next(
                (i for i, (a, b) in enumerate(zip(keys, labelled, strict=False)) if a != b),
                "the end",
            )
            raise BadConcepts(
                f"shard {entry['shard']}: features and labels are of different samples from {where}"
                f" on; remove {self.folder}/work and run `{spelled('concepts')}` again"
            )
        return ShardConcepts(keys, good, labels, lambda: self._features(entry, good))

    def _data(self, stage: str, name: str) -> bytes:
        return self.folder.read(f"work/{stage}/data/{name}")

    def _features(
        self, entry: dict[str, Any], good: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float16]:
        if not good.any():  # without images the first half could not know the width
            return np.zeros((len(good), self.width), np.float16)
        name = f"{entry['unit']}.npy"
        path = (
            self.folder.folder / f"work/features/data/{name}"
            if isinstance(self.folder, LocalStore)
            else None
        )
        try:
            found: npt.NDArray[np.float16] = (
                np.load(path, mmap_mode="r")
                if path
                else np.load(io.BytesIO(self._data("features", name)))
            )
        except UNREADABLE as error:
            raise BadConcepts(
                f"shard {entry['shard']}: {error}; run `{spelled('concepts')}` again"
            ) from error
        if found.shape != (len(good), self.width):
            raise BadConcepts(
                f"shard {entry['shard']}: features of shape {found.shape}, not"
                f" {(len(good), self.width)}; remove {self.folder}/work and run"
                f" `{spelled('concepts')}` again"
            )
        return found


def concatenated(parts: Sequence[Labels]) -> Labels:
    counts = np.concatenate([part.counts() for part in parts])
    return Labels(
        np.concatenate([[0], np.cumsum(counts)]), np.concatenate([part.ids for part in parts])
    )
