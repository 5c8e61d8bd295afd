"""Pairs whose images are computed once: features, or small images, with captions, in `.npz` files held in memory.

    features  (n, d) float16 or float32; or int8, then `scale` (d,) float32 is what they are multiplied by
    images    (n, h, w, 3) uint8, in place of features
    caption   (m,) text
    image     (m,) row of features or images that each caption belongs to; left out: m = n, in their order
    key       (m,) text, different in all files; left out: made of the file's name and the row

Several captions of an image are several pairs, which know that their image is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from open_diht.common.files import sha256_file
from open_diht.common.shard_index import caption_hash, hash64
from open_diht.trainer.data.errors import UNREADABLE, BadSource
from open_diht.trainer.data.settings import Split
from open_diht.trainer.data.shards import on_side


@dataclass(frozen=True)
class FeatureFile:
    """One file, the pairs of one part of the split."""

    name: str
    sha256: str
    inputs: Tensor
    """(n, d) float32, or (n, 3, h, w) uint8."""
    rows: npt.NDArray[np.int64]
    """(m,) row of `inputs` of each pair."""
    captions: list[str]
    keys: list[str]
    caption_hash: npt.NDArray[np.int64]
    image_hash: npt.NDArray[np.int64]
    others: int
    """Pairs of the other part of the split."""

    def __len__(self) -> int:
        return len(self.keys)


def read_features(place: str, split: Split) -> list[FeatureFile]:
    """The files of `data.features`, a file or a folder of `.npz`, by name. Raises `BadSource`."""
    path = Path(place)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise BadSource(f"data.features: there is no .npz file {place}, nor a folder that holds any")
    found = [_read(file, split) for file in files]
    shapes = {tuple(each.inputs.shape[1:]) for each in found}
    if len(shapes) > 1:
        raise BadSource(f"data.features {place}: the files hold inputs of {len(shapes)} shapes, {sorted(shapes)[:3]}")
    keys = [key for each in found for key in each.keys]
    if len(set(keys)) < len(keys):
        raise BadSource(f"data.features {place}: some keys occur twice; leave `key` out, or make them different")
    if not keys:
        raise BadSource(f"data.features {place}: no pair in part {split.part} of the split")
    return found


def _read(path: Path, split: Split) -> FeatureFile:
    try:
        with np.load(path) as content:
            arrays = {name: content[name] for name in content.files}
            stored = arrays["images"] if "images" in arrays else arrays["features"]
            inputs = _images(stored) if "images" in arrays else _features(stored, arrays.get("scale"))
            captions = [str(text).strip() for text in arrays["caption"].tolist()]
            rows = np.asarray(arrays.get("image", np.arange(len(inputs))), np.int64)
            keys = [str(key) for key in arrays["key"].tolist()] if "key" in arrays else _made_keys(path, len(captions))
            _check(len(inputs), captions, rows, keys)
    except UNREADABLE as error:
        raise BadSource(f"data.features: {path} cannot be used: {error}") from error
    of_images = np.array([hash64(row.tobytes()) for row in stored], np.uint64)[rows]
    mine = on_side(split, of_images, keys)
    return FeatureFile(
        name=path.name,
        sha256=sha256_file(path),
        inputs=torch.from_numpy(inputs),
        rows=rows[mine],
        captions=[text for text, taken in zip(captions, mine, strict=True) if taken],
        keys=[key for key, taken in zip(keys, mine, strict=True) if taken],
        caption_hash=np.array([caption_hash(text.encode()) for text in captions], np.int64)[mine],
        image_hash=of_images.view(np.int64)[mine],
        others=int((~mine).sum()),
    )


def _images(stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if stored.ndim != 4 or stored.shape[3] != 3 or stored.dtype != np.uint8:
        raise ValueError(f"images of shape {stored.shape} and type {stored.dtype}, not (n, h, w, 3) of uint8")
    return np.ascontiguousarray(stored.transpose(0, 3, 1, 2))


def _features(stored: npt.NDArray[Any], scale: npt.NDArray[Any] | None) -> npt.NDArray[np.float32]:
    if stored.ndim != 2 or stored.dtype not in (np.int8, np.float16, np.float32):
        raise ValueError(f"features of shape {stored.shape} and type {stored.dtype}, not (n, d) of float32")
    if (stored.dtype == np.int8) != (scale is not None):
        raise ValueError(f"features of type {stored.dtype} {'without' if scale is None else 'with'} a scale")
    found = stored.astype(np.float32)
    if scale is not None:
        found *= scale.astype(np.float32)
    if not np.isfinite(found).all():
        raise ValueError("some features are not finite numbers")
    return found


def _check(images: int, captions: Sequence[str], rows: npt.NDArray[np.int64], keys: Sequence[str]) -> None:
    if not len(captions) == len(rows) == len(keys):
        raise ValueError(f"{len(captions)} captions, {len(rows)} rows of images and {len(keys)} keys")
    if len(rows) and not 0 <= rows.min() <= rows.max() < images:
        raise ValueError(f"`image` names rows {rows.min()} to {rows.max()}; there are {images}")
    blank = next((key for key, text in zip(keys, captions, strict=True) if not text), None)
    if blank is not None:
        raise ValueError(f"the caption of {blank} is blank")


def _made_keys(path: Path, pairs: int) -> list[str]:
    stem = path.stem
    return [f"{stem}-{row:09d}" for row in range(pairs)]
