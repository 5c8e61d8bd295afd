"""Read embeddings in the format of DataCompDR as they are: one tar for each shard of the data set,
of the same name.

Samples are joined by uid, and each is read when it is needed: all of a tar of DataCompDR would take
a gigabyte. They get length 1. DataCompDR concatenates the embeddings of two teachers, which
`distillation.teachers` splits again. Crops and RandAugment are repeated from `paug.json`, which is
in pixels of the whole image.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import pickle
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from open_diht.common import npz
from open_diht.common.crops import cropped
from open_diht.common.shard_index import ShardIndex, halves, uid_of_json, uid_of_key
from open_diht.common.stores import many_at_once
from open_diht.trainer.embeddings.targets import EmbeddingTargets, Half, ShardEmbeddings, mapped
from open_diht.trainer.errors import UNREADABLE, ConceptMismatch
from open_diht.trainer.stores import Store

TEMPERATURE = 0.01
"""Temperature of DataCompDR's teachers, which the format does not state."""
_START = 64 * 2**10
"""Bytes at the beginning of a tar whose hash is recorded, with its size, so that a resumed run
notices other tars. They hold the first samples, which another teacher, caption or crop changes,
while it may leave the size as it was. To hash all bytes would read terabytes at the start of every
run."""
_ERRORS = (*UNREADABLE, pickle.UnpicklingError, LookupError, TypeError, RuntimeError)
_GZIP = b"\x1f\x8b"
_COMPRESSED = (_GZIP, b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""First bytes of files of gzip, bzip2, xz and Zstandard."""
Shape = tuple[int, int, int]


class Reinforced(ShardEmbeddings):
    """Embeddings of the samples of one tar, by uid. `shape`: the numbers of crops, captions and
    dimensions that all samples must have, or zeros."""

    crop_scale = (0.0, 1.0)

    def __init__(self, folder: Store, name: str, shape: Shape = (0, 0, 0)):
        self.shard = name
        self._path = f"{folder}/{name}"
        self._shape = shape
        found: dict[str, dict[str, tuple[int, int]]] = {}
        remedy = "get it again"
        try:
            with folder.opened(name) as file:
                remedy = "uncompress it" if file.read(6).startswith(_COMPRESSED) else remedy
                file.seek(0)
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    self._content = mapped(file)
                    for member in tar:
                        uid, _, ending = member.name.rpartition("/")[2].partition(".")
                        if member.isfile():
                            found.setdefault(uid, {})[ending] = (
                                member.offset_data,
                                member.offset_data + member.size,
                            )
            taught = {uid: parts for uid, parts in found.items() if {"npz", "pth.gz"} & {*parts}}
            spans = (
                (parts.get("npz") or parts["pth.gz"], parts.get("paug.json", (0, 0)))
                for parts in taught.values()
            )
        except (*UNREADABLE, tarfile.TarError) as error:
            raise ConceptMismatch(f"{self._path} cannot be read ({error}); {remedy}") from error
        self.keys = tuple(taught)
        self._identities = [self._identity(key, parts.get("json")) for key, parts in taught.items()]
        self._places = np.array([(*array, *crops) for array, crops in spans], np.int64)
        """(n, 4) first and last offset of the embeddings, and of the crops."""

    def _identity(self, key: str, about: tuple[int, int] | None) -> tuple[int, int] | str:
        """Return the uid of a sample, in two halves, as the index of a shard finds it. Without a
        uid return its key."""
        uid = uid_of_json(self._content[slice(*about)].tobytes()) if about is not None else ""
        return halves(uid) if (uid := uid or uid_of_key(key)) else key

    @property
    def crops(self) -> int:
        return self._shape[0]

    @property
    def image(self) -> Half:  # type: ignore[override]  # a field of those that are held
        """See `ShardEmbeddings`. Reads all samples."""
        images = [image for image, _ in self._samples(range(len(self.keys)))]
        return np.array(images, np.float16).reshape(-1, self.crops, self._shape[2])

    @property
    def text(self) -> Half:  # type: ignore[override]
        """See `ShardEmbeddings`. Reads all samples."""
        texts = [text for _, text in self._samples(range(len(self.keys)))]
        return np.array(texts, np.float16).reshape(-1, *self._shape[1:])

    def rows(self, index: ShardIndex) -> npt.NDArray[np.int64]:
        """See `ShardEmbeddings`. A sample is found by the uid in its JSON if there is one, else by
        its key. So keys may be numbers, as those of img2dataset."""
        places = {identity: row for row, identity in enumerate(self._identities)}
        uids = zip(index.rows["uid_high"].tolist(), index.rows["uid_low"].tolist(), strict=True)
        samples = (
            uid if any(uid) or uid_of_key(key) else key
            for uid, key in zip(uids, index.keys, strict=True)
        )
        return np.array([places.get(sample, -1) for sample in samples], np.int64)

    def present(
        self, rows: npt.NDArray[np.int64], captions: Collection[int]
    ) -> npt.NDArray[np.bool_]:
        """See `ShardEmbeddings`. Reads and checks all of these samples."""
        found = (
            image.any() and text[[*captions]].any(axis=1).all()
            for image, text in self._samples(rows.tolist())
        )
        return np.fromiter(found, np.bool_, len(rows))

    def _samples(self, rows: Iterable[int]) -> Iterator[tuple[Half, Half]]:
        for row in rows:
            self._boxes(row)
            yield self.sample(row)

    def pair(self, row: int, crop: int, caption: int) -> tuple[Half, Half]:
        image, text = self._arrays(row)
        return self._unit(row, "images", image[crop]), self._unit(row, "captions", text[caption])

    def sample(self, row: int) -> tuple[Half, Half]:
        """Return the embeddings of all crops and captions of a row. Raises `ConceptMismatch` if
        they cannot be used."""
        image, text = self._arrays(row)
        return self._unit(row, "images", image), self._unit(row, "captions", text)

    def _arrays(self, row: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        start, stop, _, _ = self._places[row]
        try:
            # float64, whose squares do not overflow
            image, text = (
                np.asarray(each, np.float64)
                for each in _arrays(self._content[start:stop].tobytes())
            )
            found = len(image), len(text), image.shape[1]
        except _ERRORS as error:
            raise self._unusable(row, f"has embeddings that cannot be read ({error})") from error
        crops, captions, dimension = self._shape if any(self._shape) else found
        if (image.shape, text.shape) != ((crops, dimension), (captions, dimension)):
            raise self._unusable(
                row,
                f"has embeddings of shapes {image.shape} and {text.shape}, not {(crops, dimension)}"
                f" and {(captions, dimension)} as in the first sample of the folder",
            )
        return image, text

    def _unit(self, row: int, what: str, vectors: npt.NDArray[Any]) -> Half:
        norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
        if not np.isfinite(norms).all():
            raise self._unusable(row, f"has an embedding of {what} that is not finite")
        return (vectors / np.maximum(norms, 1e-12)).astype(np.float16)

    def view(self, image: Image.Image, row: int, crop: int, size: int) -> Image.Image:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.autoaugment import _apply_op

        (top, left, height, width), *operations = self._boxes(row)[crop]
        if left + width > image.width or top + height > image.height:
            raise ConceptMismatch(
                f"{self.keys[row]}: paug.json has the crop {[top, left, height, width]} of an image"
                f" of {image.width} x {image.height} pixels; the data must have the images' own"
                " sizes, without data.decode_side"
            )
        found = cropped(image, (left, top, left + width, top + height), size)
        try:
            for number, magnitude in (operations[0] if operations else None) or ():
                found = _apply_op(
                    found, _operations()[number], magnitude, InterpolationMode.NEAREST, None
                )
        except _ERRORS as error:
            raise self._unusable(
                row, f"has a paug.json that cannot be repeated ({error})"
            ) from error
        return found

    def _boxes(self, row: int) -> list[list[Any]]:
        """Return for each crop a list: the box as [top, left, height, width], and perhaps pairs
        (operation, magnitude)."""
        _, _, start, stop = self._places[row]
        try:
            crops = json.loads(self._content[start:stop].tobytes())["param_aug"]
            crops = json.loads(crops) if isinstance(crops, str) else crops
            usable = [len(box) for box, *_ in crops] == [4] * self.crops
            for (top, left, *size), *steps in crops:
                usable &= min(top, left) >= 0 and min(size) > 0
                for number, magnitude in (steps and steps[0]) or ():
                    usable &= math.isfinite(magnitude) and 0 <= number < len(_operations())
        except _ERRORS as error:
            raise self._unusable(row, f"has a paug.json that cannot be read ({error})") from error
        if not usable:
            raise self._unusable(
                row, f"has a paug.json without a usable crop for each of {self.crops} embeddings"
            )
        return list(crops)

    def _unusable(self, row: int, why: str) -> ConceptMismatch:
        return ConceptMismatch(
            f"{self._path}: row {row} (key {self.keys[row]}) {why}; get the tar again"
        )


@cache
def _operations() -> list[str]:
    """Return the names of RandAugment's operations, in the order in which the format numbers
    them."""
    from torchvision.transforms import RandAugment

    return [*RandAugment()._augmentation_space(31, (1, 1))]


class ReinforcedTargets(EmbeddingTargets):
    """A folder of tars in the format of DataCompDR. `tars`: their names and sizes."""

    def __init__(self, folder: Store, tars: Mapping[str, int]):
        self._folder = folder
        opened = (Reinforced(folder, name) for name in tars)
        first = next((shard.sample(0) for shard in opened if shard.keys), None)
        if first is None:
            raise ConceptMismatch(
                f"the tars in {folder} hold no sample with image_emb and text_emb"
            )
        image, text = first
        try:
            starts = many_at_once(
                lambda name: hashlib.sha256(folder.read(name, _START)).hexdigest(), tars
            )
        except OSError as error:
            raise ConceptMismatch(
                f"a tar in {folder} cannot be read ({error}); get it again"
            ) from error
        about: dict[str, Any] = {
            "teacher": {"name": "datacompdr"},
            "dimension": image.shape[1],
            "temperature": TEMPERATURE,
            "crops": len(image),
            "seed": 0,
            "crop_scale": Reinforced.crop_scale,
            "captions": ["caption", *(f"syn_text[{number}]" for number in range(len(text) - 1))],
            "shards": [
                {
                    "shard": name,
                    "file": name,
                    "tar_sha256": "",
                    "bytes": size,
                    "start_sha256": start,
                }
                for (name, size), start in zip(tars.items(), starts, strict=True)
            ],
        }
        super().__init__(folder, about)

    @property
    def advice(self) -> str:
        """See `StoredTargets`."""
        return (
            "samples are joined by the uid of their JSON or key, so name tars with the data's uids"
        )

    def missing(self, shards: Mapping[str, str]) -> list[str]:
        absent = super().missing(shards)
        if absent and len(absent) == len(shards):
            raise ConceptMismatch(
                f"{self._folder}: no tar has the name of a shard of the data, such as {absent[0]};"
                " name the folder of the tars that were made for these shards"
            )
        return absent

    def shard(self, name: str, sha256: str = "") -> Reinforced | None:
        """See `EmbeddingTargets`. Samples are checked when they are read."""
        shape = self.crops, len(self.captions), self.dimension
        return Reinforced(self._folder, name, shape) if name in self._shards else None


def _arrays(content: bytes) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return image_emb and text_emb of a sample's .npz or .pth.gz."""
    if not content.startswith(_GZIP):
        with npz.opened(io.BytesIO(content)) as arrays:
            return arrays["image_emb"], arrays["text_emb"]
    import torch

    stored = torch.load(io.BytesIO(gzip.decompress(content)), weights_only=True, map_location="cpu")
    image, text = (
        torch.as_tensor(stored[name]).float().numpy() for name in ("image_emb", "text_emb")
    )
    return image, text
