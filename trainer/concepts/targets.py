"""Stored predictions of the teacher: a few concepts with probabilities per image, in one small file
per shard.

    concepts/targets/manifest.json       hash of the vocabulary, teacher, k, and the SHA-256 of
    every file concepts/targets/<shard>.npz         keys, and for each head ids (n, k) uint32 and
    probabilities (n, k) float16

Rows of zero probabilities are images that the teacher could not read. The files take 60 bytes per
image and head at k = 10, plus keys and headers, and training does not need the teacher itself.
"""

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np
import numpy.typing as npt

from open_diht.common import npz
from open_diht.common.shard_index import ShardIndex, packed_keys, unpacked_keys
from open_diht.common.spelling import spelled
from open_diht.trainer.errors import UNREADABLE, ConceptMismatch
from open_diht.trainer.stores import Store, store_at

VERSION = 1
MANIFEST = "manifest.json"
Ids = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ShardTargets:
    shard: str
    """File name of the tar."""
    keys: tuple[str, ...]
    ids: dict[str, npt.NDArray[np.uint32]]
    """Head name to ids (n, k)."""
    probabilities: dict[str, npt.NDArray[np.float16]]
    """Maps the name of a head to probabilities (n, k). Each row sums to 1 within float16 rounding,
    or is zero."""

    def rows(self, keys: Sequence[str]) -> Ids:
        """Return the row of each key. Raises `ConceptMismatch` if one is missing."""
        places = {key: row for row, key in enumerate(self.keys)}
        try:
            return np.array([places[key] for key in keys], np.int64)
        except KeyError as error:
            raise ConceptMismatch(
                f"shard {self.shard} has a sample {error.args[0]!r} without concept targets; run "
                f"`{spelled('concepts')}` again"
            ) from error

    def head(self, name: str, rows: Ids) -> tuple[Ids, Probabilities]:
        """Return int64 ids and float32 probabilities of a head, (len(rows), k). Rows sum to 1, or 0
        without targets."""
        probabilities = self.probabilities[name][rows].astype(np.float32)
        total = probabilities.sum(axis=1, keepdims=True)
        return self.ids[name][rows].astype(np.int64), probabilities / np.where(total > 0, total, 1)


class StoredTargets(ABC):
    """The targets of a data set, in one file per shard that a manifest lists."""

    what: ClassVar[str]
    """Name of the kind of targets, for messages."""
    options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Options of `concepts` that make them, for messages."""
    version: ClassVar[int]

    def __init__(self, folder: Store, manifest: dict[str, Any]):
        self._folder = folder
        self.manifest = manifest
        """The content of manifest.json."""
        self._shards = {entry["shard"]: entry for entry in manifest["shards"]}

    @classmethod
    def remedy(cls) -> str:
        """Return the command that makes such targets."""
        return f"`{spelled('concepts', **cls.options)}`"

    @property
    def advice(self) -> str:
        """Return the remedy if many samples have no targets, for messages."""
        return f"run {self.remedy()} on this data, or name the targets that were made from it"

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open the targets in `targets/` of a folder or in the folder itself, at a path or an
        fsspec URL. Raises `ConceptMismatch` if no targets can be read or they have another version,
        `WrongUse` or `StoreError` for a URL.
        """
        place = store_at(f"{folder}/targets" if store_at(folder).exists("targets") else folder)
        try:
            manifest = json.loads(place.read(MANIFEST))
            version = manifest["version"]
            if version == cls.version:
                return cls(place, manifest)
        except (FileNotFoundError, NotADirectoryError, KeyError, TypeError) as error:
            raise ConceptMismatch(
                f"{folder} holds no {cls.what}; make them with {cls.remedy()}"
            ) from error
        except ValueError as error:
            raise ConceptMismatch(
                f"{place}/{MANIFEST} cannot be read: {error}; run {cls.remedy()} again"
            ) from error
        raise ConceptMismatch(
            f"{place} is of another version of this program; run {cls.remedy()} again"
        )

    def missing(self, shards: Mapping[str, str]) -> list[str]:
        """Return which of these shards (name to SHA-256) have no targets. Raises `ConceptMismatch`
        if targets are of another tar, or a file has another size than the manifest says, if it says
        one."""
        files = self._folder.sizes()
        for name, sha256 in shards.items():
            self._check_tar(name, sha256)
            entry = self._shards.get(name, {})
            there = files.get(entry.get("file", ""))
            size = entry.get("bytes")
            if there is not None and size is not None and there != size:
                raise ConceptMismatch(
                    f"{self._folder}/{entry['file']} has {there:,} bytes, not {size:,} as"
                    f" {MANIFEST} says; run {self.remedy()} again"
                )
        return [
            name
            for name in shards
            if name not in self._shards or self._shards[name]["file"] not in files
        ]

    @abstractmethod
    def taught(
        self, index: ShardIndex, rows: Ids, captions: Collection[int]
    ) -> npt.NDArray[np.bool_]:
        """Return the mask of rows of a shard's index that have targets, also of these captions if
        targets are of captions. Raises `ConceptMismatch` if the shard's targets cannot be used,
        `StoreError` if their store failed.
        """

    def _check_tar(self, name: str, sha256: str) -> None:
        made_from = self._shards[name]["tar_sha256"] if name in self._shards else ""
        if sha256 and made_from and sha256 != made_from:
            raise ConceptMismatch(
                f"the {self.what} of shard {name} in {self._folder} were made from another file of"
                f" that name; run {self.remedy()} again"
            )

    def _opened(self, name: str, sha256: str) -> BinaryIO | None:
        """Open a shard's file. Return None if there is none. An empty `sha256` of the tar is not
        checked. Raises `ConceptMismatch` if the file is damaged or of another tar."""
        entry = self._shards.get(name)
        if entry is None:
            return None
        self._check_tar(name, sha256)
        try:
            file = self._folder.opened(entry["file"])
        except FileNotFoundError:
            return None
        # typeshed declares too narrow a type of file.
        if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:  # type: ignore[arg-type]
            file.close()
            path = f"{self._folder}/{entry['file']}"
            raise ConceptMismatch(
                f"{path} is damaged (SHA-256 differs from {MANIFEST}); run {self.remedy()} again"
            )
        file.seek(0)
        return file


class ConceptTargets(StoredTargets):
    """The targets of a data set, as `open_targets` returns them. The manifest has the hash of the
    vocabulary, the teacher, k and counts."""

    what = "concept targets"
    version = VERSION

    @property
    def heads(self) -> dict[str, int]:
        """Maps the name of a head to the number of its concepts."""
        return dict(self.manifest["heads"])

    @property
    def k(self) -> int:
        """Number of concepts kept per image and head."""
        return int(self.manifest["k"])

    def shard(self, name: str, sha256: str = "") -> ShardTargets | None:
        """Return the targets of a shard. Return None if there are none. An empty `sha256` of the
        tar is not checked. Raises `ConceptMismatch` if targets are damaged or of another tar,
        `StoreError` if the store of a URL failed.
        """
        file = self._opened(name, sha256)
        if file is None:
            return None
        with file:
            return unpacked(file.read())

    def taught(
        self, index: ShardIndex, rows: Ids, captions: Collection[int]
    ) -> npt.NDArray[np.bool_]:
        """See `StoredTargets.taught`. A row has targets if all heads have."""
        found = self.shard(index.name, index.identity)
        if found is None:
            return np.zeros(len(rows), np.bool_)
        places = found.rows([index.keys[row] for row in rows])
        return np.all(
            [values[places].any(axis=1) for values in found.probabilities.values()], axis=0
        )


def open_targets(folder: str | Path) -> ConceptTargets:
    """Open the targets in the output folder of `make concepts` or in its `targets/`, at a path or
    an fsspec URL. Raises `ConceptMismatch` if no targets can be read or they have another version,
    `WrongUse` or `StoreError` for a URL.
    """
    return ConceptTargets.open(folder)


def packed(targets: ShardTargets, about: Mapping[str, Any]) -> bytes:
    """Return the bytes of a targets file, which are equal for equal targets and provenance."""
    text = json.dumps({**about, "version": VERSION, "shard": targets.shard}, sort_keys=True)
    arrays: dict[str, Any] = {
        "about": np.frombuffer(text.encode(), np.uint8),
        "keys": packed_keys(targets.keys),
    }
    arrays |= {f"{head}.ids": ids for head, ids in targets.ids.items()}
    arrays |= {f"{head}.probabilities": values for head, values in targets.probabilities.items()}
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def about(content: bytes, heads: Collection[str]) -> dict[str, Any]:
    """Return the provenance in a targets file. It is empty if the file is damaged or has other
    heads."""
    try:
        with npz.opened(io.BytesIO(content)) as arrays:
            found: dict[str, Any] = json.loads(arrays["about"].tobytes())
        # Reading an array checks its CRC-32.
        return found if set(unpacked(content).ids) == set(heads) else {}
    except (
        *UNREADABLE,
        RuntimeError,
    ):
        # zipfile raises RuntimeError if a damaged header names an encryption.
        return {}


def unpacked(content: bytes) -> ShardTargets:
    with npz.opened(io.BytesIO(content)) as arrays:
        heads = [name.removesuffix(".ids") for name in arrays.files if name.endswith(".ids")]
        return ShardTargets(
            shard=json.loads(arrays["about"].tobytes())["shard"],
            keys=tuple(unpacked_keys(arrays["keys"])),
            ids={head: arrays[f"{head}.ids"] for head in heads},
            probabilities={head: arrays[f"{head}.probabilities"] for head in heads},
        )
