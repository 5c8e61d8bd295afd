"""Read embeddings in the format of DataCompDR as they are: one tar for each shard of the data set, of the same name.

Samples are joined by uid. Embeddings get length 1. DataCompDR concatenates those of two teachers, so that the cosine is
the mean of both. Crops and RandAugment are repeated from `paug.json`, which is in pixels of the whole image.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from open_diht.common.crops import cropped
from open_diht.common.shard_index import uid_of_key
from open_diht.trainer.data.errors import UNREADABLE, ConceptMismatch
from open_diht.trainer.embeddings.targets import EmbeddingTargets, Half, ShardEmbeddings
from open_diht.trainer.stores import Store

TEMPERATURE = 0.01
"""Temperature of DataCompDR's teachers, which the format does not state."""


@dataclass(frozen=True)
class Reinforced(ShardEmbeddings):
    """Embeddings of the samples of one tar, by uid."""

    crops: tuple[list[list[Any]], ...] = ()
    """For each row and crop a list: the box as [top, left, height, width], and perhaps pairs (operation, magnitude)."""
    crop_scale: tuple[float, float] | None = (0.0, 1.0)

    def rows(self, keys: Sequence[str]) -> npt.NDArray[np.int64]:
        return super().rows([uid_of_key(key) or key for key in keys])

    def view(self, image: Image.Image, row: int, crop: int, size: int) -> Image.Image:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.autoaugment import _apply_op

        (top, left, height, width), *operations = self.crops[row][crop]
        if left + width > image.width or top + height > image.height:
            raise ConceptMismatch(
                f"{self.keys[row]}: paug.json has the crop {[top, left, height, width]} of an image of {image.width} x "
                f"{image.height} pixels; the data must have the images' own sizes, without data.decode_side"
            )
        found = cropped(image, (left, top, left + width, top + height), size)
        for number, magnitude in (operations[0] if operations else None) or ():
            found = _apply_op(found, _operations()[number], magnitude, InterpolationMode.NEAREST, None)
        return found


@cache
def _operations() -> list[str]:
    """Return the names of RandAugment's operations, in the order in which the format numbers them."""
    from torchvision.transforms import RandAugment

    return [*RandAugment()._augmentation_space(31, (1, 1))]


class ReinforcedTargets(EmbeddingTargets):
    """A folder of tars in the format of DataCompDR."""

    def __init__(self, folder: Store, tars: Sequence[str]):
        self._folder = folder
        first = next((sample for name in tars for sample in self._samples(name)), None)
        if first is None:
            raise ConceptMismatch(f"the tars in {folder} hold no sample with image_emb and text_emb")
        _, image, text, _ = first
        about: dict[str, Any] = {
            "teacher": {"name": "datacompdr"},
            "dimension": image.shape[1],
            "temperature": TEMPERATURE,
            "crops": len(image),
            "seed": 0,
            "crop_scale": Reinforced.crop_scale,
            "captions": ["caption", *(f"syn_text[{number}]" for number in range(len(text) - 1))],
            "shards": [{"shard": name, "file": name, "tar_sha256": ""} for name in tars],
        }
        super().__init__(folder, about)

    def shard(self, name: str, sha256: str = "") -> Reinforced | None:
        if name not in self._shards:
            return None
        found = list(self._samples(name))
        path = f"{self._folder}/{name}"
        for uid, image, text, boxes in found:
            if image.shape != (self.crops, self.dimension) or text.shape != (len(self.captions), self.dimension):
                raise ConceptMismatch(
                    f"{path}: {uid} has embeddings of shapes {image.shape} and {text.shape}, and the first sample of "
                    f"the folder has {self.crops} crops and {len(self.captions)} captions of {self.dimension} numbers"
                )
            if len(boxes) != len(image) or any(len(one[0]) != 4 for one in boxes):
                raise ConceptMismatch(f"{path}: paug.json of {uid} has no box for each of {len(image)} embeddings")
        uids, images, texts, crops = zip(*found, strict=True) if found else ((), (), (), ())
        parts = ((images, self.crops), (texts, len(self.captions)))
        arrays = (np.asarray(each, np.float16).reshape(len(found), k, self.dimension) for each, k in parts)
        checked = self._checked(path, name, list(uids), *arrays)
        return Reinforced(name, checked.keys, checked.image, checked.text, crops=crops)

    def _samples(self, name: str) -> list[tuple[str, Half, Half, list[Any]]]:
        """Return uid, embeddings of image and captions, and crops of each sample of a tar."""
        members: dict[str, dict[str, bytes]] = {}
        try:
            with tarfile.open(fileobj=io.BytesIO(self._folder.read(name))) as tar:
                for member in tar:
                    uid, _, ending = member.name.rpartition("/")[2].partition(".")
                    if member.isfile() and (file := tar.extractfile(member)):
                        members.setdefault(uid, {})[ending] = file.read()
            return [(uid, *_sample(parts)) for uid, parts in members.items() if {"npz", "pth.gz"} & {*parts}]
        except (*UNREADABLE, tarfile.TarError, TypeError, RuntimeError) as error:
            raise ConceptMismatch(f"{self._folder}/{name} cannot be read ({error}); get it again") from error


def _sample(parts: dict[str, bytes]) -> tuple[Half, Half, list[Any]]:
    if "npz" in parts:
        with np.load(io.BytesIO(parts["npz"])) as arrays:
            image, text = arrays["image_emb"], arrays["text_emb"]
    else:
        import torch

        stored = torch.load(io.BytesIO(gzip.decompress(parts["pth.gz"])), weights_only=True, map_location="cpu")
        image, text = (torch.as_tensor(stored[name]).float().numpy() for name in ("image_emb", "text_emb"))
    crops = json.loads(parts["paug.json"])["param_aug"]
    return _unit(image), _unit(text), json.loads(crops) if isinstance(crops, str) else crops


def _unit(vectors: npt.NDArray[Any]) -> Half:
    wide = np.asarray(vectors, np.float64)  # whose squares do not overflow
    with np.errstate(all="ignore"):  # numbers that are not finite are found afterwards
        return (wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)).astype(np.float16)
