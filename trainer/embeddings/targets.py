"""Stored embeddings of a two-tower teacher: of one or more crops of each image, and of one or more
captions.

    embeddings/targets/manifest.json     teacher, temperature, dimension, crops, captions, and the
    SHA-256 of every file embeddings/targets/<shard>.npz       keys, image (n, crops, d) float16,
    text (n, captions, d) float16

Embeddings have length 1. A row of zeros has no target: the teacher could not read the image, or the
sample has no such caption. With crops that are drawn, `ShardEmbeddings.view` shows the student the
crop that the teacher saw.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from open_diht.common import npz
from open_diht.common.crops import crop_box, crop_of, cropped, middle
from open_diht.common.shard_index import ShardIndex, unpacked_keys
from open_diht.trainer.concepts.targets import StoredTargets
from open_diht.trainer.errors import UNREADABLE, ConceptMismatch
from open_diht.trainer.stores import Store

VERSION = 1
_ROWS = 256  # checked at a time: all of a shard may take a gigabyte
Half = npt.NDArray[np.float16]


@dataclass
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
    """Range of the fraction of the area of the drawn crops. None: the one crop is the center, as in
    evaluation."""

    @property
    def crops(self) -> int:
        """Number of crops of an image."""
        return self.image.shape[1]

    def rows(self, index: ShardIndex) -> npt.NDArray[np.int64]:
        """Return the row of each sample of the shard, -1 for a sample without a target."""
        places = {key: row for row, key in enumerate(self.keys)}
        return np.array([places.get(key, -1) for key in index.keys], np.int64)

    def present(
        self, rows: npt.NDArray[np.int64], captions: Collection[int]
    ) -> npt.NDArray[np.bool_]:
        """Return the mask of rows with embeddings of the image and of all of these captions."""
        found = (
            self.image[row].any() and self.text[row][[*captions]].any(axis=1).all()
            for row in rows.tolist()
        )
        return np.fromiter(found, np.bool_, len(rows))

    def pair(self, row: int, crop: int, caption: int) -> tuple[Half, Half]:
        """Return the embeddings (d,) of a crop and of a caption of a row."""
        return self.image[row, crop], self.text[row, caption]

    def view(self, image: Image.Image, row: int, crop: int, size: int) -> Image.Image:
        """Return crop number `crop` of the whole image of a row, as the teacher saw it, in (size,
        size) pixels. Only for targets with a `crop_scale`."""
        assert self.crop_scale is not None
        image = middle(image)
        return cropped(
            image,
            crop_box(crop_of(self.seed, self.keys[row], crop), *image.size, self.crop_scale),
            size,
        )


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
        """Range of the fraction of the area of the drawn crops. None: the one crop is the center,
        as in evaluation."""
        self.captions = tuple(manifest["captions"])
        """Names of the captions: `caption` is a sample's .txt, others are texts in its JSON."""

    def shard(self, name: str, sha256: str = "") -> ShardEmbeddings | None:
        """Return the embeddings of a shard. Return None if there are none. An empty `sha256` of the
        tar is not checked. Raises `ConceptMismatch` if they are damaged, of another tar, of another
        shape than the manifest says or not finite, `StoreError` if the store of a URL failed."""
        file = self._opened(name, sha256)
        if file is None:
            return None
        path = f"{self._folder}/{self._shards[name]['file']}"
        try:
            with file, npz.opened(file) as arrays:
                keys = unpacked_keys(arrays["keys"])
                content = mapped(file)
                image, text = (_array(arrays, content, each) for each in ("image", "text"))
        except UNREADABLE as error:
            raise ConceptMismatch(
                f"{path} cannot be read ({error}); run {self.remedy()} again"
            ) from error
        for what, found, each in (
            ("images", image, self.crops),
            ("captions", text, len(self.captions)),
        ):
            asked = (len(keys), each, self.dimension)
            if found.shape != asked or found.dtype != np.float16:
                raise ConceptMismatch(
                    f"{path}: the embeddings of {what} are {found.shape} {found.dtype}, not {asked}"
                    f" float16 as in the manifest; run {self.remedy()} again"
                )
            for start in range(0, len(keys), _ROWS):
                # Numbers that are not finite have all of these bits; numpy has no fast test for
                # float16.
                bits = found[start : start + _ROWS].view(np.uint16) & 0x7C00
                if len(bad := start + np.flatnonzero((bits == 0x7C00).any(axis=(1, 2)))):
                    raise ConceptMismatch(
                        f"{path}: row {bad[0]} (key {keys[bad[0]]}) has an embedding of {what} that"
                        f" is not finite; run {self.remedy()} again"
                    )
        return ShardEmbeddings(name, tuple(keys), image, text, self.seed, self.crop_scale)

    def taught(
        self, index: ShardIndex, rows: npt.NDArray[np.int64], captions: Collection[int]
    ) -> npt.NDArray[np.bool_]:
        """See `StoredTargets.taught`."""
        found = self.shard(index.name, index.identity)
        mask = np.zeros(len(rows), np.bool_)
        if found is not None:
            places = found.rows(index)[rows]
            mask[places >= 0] = found.present(places[places >= 0], captions)
        return mask


def mapped(file: BinaryIO) -> npt.NDArray[np.uint8]:
    """Return the content of a file that a store has opened, on a disk as a map. A worker has many
    files open, and each may take a gigabyte."""
    return (
        np.frombuffer(file.getvalue(), np.uint8)
        if isinstance(file, io.BytesIO)
        else np.memmap(file, np.uint8, "r")
    )


def _array(arrays: Any, content: npt.NDArray[np.uint8], name: str) -> Any:
    """Return an array of a shard's file as a part of the file's content, or a copy if it is
    compressed."""
    info = arrays.zip.getinfo(f"{name}.npy")
    with arrays.zip.open(info) as file:
        if info.compress_type != zipfile.ZIP_STORED or np.lib.format.read_magic(file) != (1, 0):
            return arrays[name]
        shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
        start = info.header_offset + 30 + file.tell()
    lengths = content[info.header_offset + 26 :][:4].tobytes()  # of two fields before the array
    start += sum(struct.unpack("<HH", lengths))
    size = math.prod(shape) * kind.itemsize
    return content[start : start + size].view(kind).reshape(shape, order="F" if by_columns else "C")
