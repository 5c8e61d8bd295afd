"""Images, or what was stored of them, to pixels of the model's size: open_clip's transforms up to where they become
floats (`pixels` goes on)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import (
    CenterCrop,
    Compose,
    InterpolationMode,
    PILToTensor,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)

from open_diht.trainer.config import TransformSettings


def preprocessing(settings: TransformSettings, size: int) -> dict[str, Any]:
    """What evaluation does to an image, in open_clip's form: shortest side to `size` (bicubic), centre crop,
    normalise."""
    return {
        "size": size,
        "mode": "RGB",
        "mean": list(settings.mean),
        "std": list(settings.std),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }


def transform(settings: TransformSettings, size: int, *, training: bool) -> Callable[[Image.Image], Tensor]:
    """An image (PIL, RGB) to (3, size, size) uint8: with a random crop, and flipped as often as the settings say, while
    training, a centre crop otherwise."""
    bicubic = InterpolationMode.BICUBIC
    if not training:
        return Compose([Resize(size, interpolation=bicubic), CenterCrop(size), PILToTensor()])
    flip = [RandomHorizontalFlip(settings.flip)] if settings.flip else []
    crop = RandomResizedCrop(size, scale=settings.crop_scale, interpolation=bicubic)
    return Compose([crop, *flip, PILToTensor()])


class StoredTransform:
    """What is stored of images, (b, d) float32 or (b, 3, h, w) uint8, to what the tower takes before `pixels`. Features
    stay as they are. Images that are stored larger than the tower's are cropped to it: at random while training, where
    they are flipped as well as often as the settings say, else in the middle."""

    def __init__(self, settings: TransformSettings, shape: Sequence[int], *, training: bool):
        self._shape, self._training, self._flip = tuple(shape), training, settings.flip

    def takes(self, stored: Sequence[int]) -> bool:
        """Whether inputs stored in this shape become inputs of the tower."""
        found = tuple(stored)
        if len(found) == 1:
            return found == self._shape
        return len(self._shape) == 3 and all(a >= b for a, b in zip(found, self._shape, strict=True))

    def __call__(self, stored: Tensor, draws: npt.NDArray[np.float64]) -> Tensor:
        """`draws` (b, 3) in [0, 1): where the crop begins, from above and from the left, and whether it is flipped."""
        return stored if stored.dim() == 2 else self._cropped(stored, draws)

    def _cropped(self, images: Tensor, draws: npt.NDArray[np.float64]) -> Tensor:
        _, height, width = self._shape
        free = np.array([images.shape[2] - height, images.shape[3] - width])
        corners = draws[:, :2] * (free + 1) if self._training else np.tile(free / 2, (len(images), 1))
        result = images.new_empty((len(images), *self._shape))
        for row, (top, left) in enumerate(corners.astype(np.int64).tolist()):
            result[row] = images[row, :, top : top + height, left : left + width]
        if self._training and self._flip:
            mirrored = torch.from_numpy(np.flatnonzero(draws[:, 2] < self._flip))
            result[mirrored] = result[mirrored].flip(3)
        return result
