"""Stored embeddings of a two-tower teacher: of one or more crops of each image, and of one or more captions.

    embeddings/targets/manifest.json     teacher, temperature, dimension, crops, captions, and the SHA-256 of every file
    embeddings/targets/<shard>.npz       keys, image (n, crops, d) float16, text (n, captions, d) float16

Embeddings have length 1. A row of zeros has no target: the teacher could not read the image, or the sample has no such
caption. With crops that are drawn, `ShardEmbeddings.view` shows the student the crop that the teacher saw.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from open_diht.common.crops import crop_box, crop_of, cropped, middle
from open_diht.common.shard_index import unpacked_keys
from open_diht.trainer.concepts.targets import StoredTargets
from open_diht.trainer.data.errors import UNREADABLE, ConceptMismatch
from open_diht.trainer.stores import LocalStore, Store

VERSION = 1
Half = npt.NDArray[np.float16]


@dataclass(frozen=True)
class ShardEmbeddings:
    """Embeddings of the samples of one shard."""

    shard: str
    """File name of the tar."""
    keys: tuple[str, ...]
    image: Half
    """(n, crops, dimension) float16; a row of zeros has no target."""
    text: Half
    """(n, captions, dimension) float16; a row of zeros has no target."""
    seed: int = 0
    crop_scale: tuple[float, float] | None = None
    """Range of the fraction of the area of the drawn crops. None: the one crop is the center, as in evaluation."""

    def rows(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row of each key, -1 for a key without a target."""
        places = {key: row for row, key in enumerate(self.keys)}
        return np.array([places.get(key, -1) for key in keys], np.int64)

    def view(self, image: Image.Image, row: int, crop: int, size: int) -> Image.Image:
        """Return crop number `crop` of the whole image of a row, as the teacher saw it, in (size, size) pixels. Only
        for targets with a `crop_scale`."""
        assert self.crop_scale is not None
        image = middle(image)
        return cropped(image, crop_box(crop_of(self.seed, self.keys[row], crop), *image.size, self.crop_scale), size)


class EmbeddingTargets(StoredTargets):
    """The embeddings of a data set, as `open_embeddings` returns them."""

    what = "embedding targets"
    options: ClassVar[Mapping[str, str]] = MappingProxyType({"store": "embeddings"})
    version = VERSION

    def __init__(self, folder: Store, manifest: dict[str, Any]):
        super().__init__(folder, manifest)
        self.dimension = int(manifest["dimension"])
        """Length d of an embedding."""
        self.temperature = float(manifest["temperature"])
        """Divisor of the teacher's cosines before a softmax."""
        self.crops = int(manifest["crops"])
        """Number of crops of an image."""
        self.seed = int(manifest["seed"])
        """Seed of the crops, see `crop_of`."""
        scale = manifest["crop_scale"]
        self.crop_scale: tuple[float, float] | None = scale and (float(scale[0]), float(scale[1]))
        """Range of the fraction of the area of the drawn crops. None: the one crop is the center, as in evaluation."""
        self.captions = tuple(manifest["captions"])
        """Names of the captions: `caption` is a sample's .txt, others are texts in its JSON."""

    def shard(self, name: str, sha256: str = "") -> ShardEmbeddings | None:
        """Return the embeddings of a shard. Return None if there are none. An empty `sha256` of the tar is not checked.
        Raises `ConceptMismatch` if they are damaged, of another tar, of another shape than the manifest says or not
        finite, `StoreError` if the store of a URL failed."""
        content = self._content(name, sha256)
        if content is None:
            return None
        path = f"{self._folder}/{self._shards[name]['file']}"
        mapped = None
        if isinstance(self._folder, LocalStore):
            mapped = np.memmap(self._folder.folder / self._shards[name]["file"], np.uint8, "r")
        try:
            with np.load(io.BytesIO(content)) as arrays:
                keys = unpacked_keys(arrays["keys"])
                image, text = (self._array(arrays, content, mapped, each) for each in ("image", "text"))
        except UNREADABLE as error:
            raise ConceptMismatch(f"{path} cannot be read ({error}); run {self.remedy()} again") from error
        return self._checked(path, name, keys, image, text)

    def _array(self, arrays: Any, content: bytes, mapped: Any, name: str) -> Any:
        """Return an array of a shard's file, as a part of the map of the file if there is one. A worker has many shards
        open, and each may take tens of megabytes."""
        info = arrays.zip.getinfo(f"{name}.npy")
        if mapped is None or info.compress_type != zipfile.ZIP_STORED:
            return arrays[name]
        file = io.BytesIO(content)
        file.seek(info.header_offset + 26)  # the lengths of two fields that precede the array
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        if np.lib.format.read_magic(file) != (1, 0):
            return arrays[name]
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
        if by_columns or not np.prod(shape):
            return arrays[name]
        size = int(np.prod(shape)) * kind.itemsize
        return mapped[file.tell() : file.tell() + size].view(kind).reshape(shape)

    def _checked(self, path: str, name: str, keys: list[str], image: Any, text: Any) -> ShardEmbeddings:
        for what, found, each in (("images", image, self.crops), ("captions", text, len(self.captions))):
            asked = (len(keys), each, self.dimension)
            if found.shape != asked or found.dtype != np.float16:
                raise ConceptMismatch(
                    f"{path}: the embeddings of {what} are {found.shape} {found.dtype}, not {asked} float16 as in the "
                    f"manifest; run {self.remedy()} again"
                )
            # Numbers that are not finite have all of these bits; numpy has no fast test for float16.
            bad = np.flatnonzero(((found.view(np.uint16) & 0x7C00) == 0x7C00).any(axis=(1, 2)))
            if len(bad):
                raise ConceptMismatch(
                    f"{path}: row {bad[0]} (key {keys[bad[0]]}) has an embedding of {what} that is not finite; "
                    f"run {self.remedy()} again"
                )
        return ShardEmbeddings(name, tuple(keys), image, text, self.seed, self.crop_scale)
