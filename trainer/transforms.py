"""Turn images, as open_clip's transforms do, or stored features and small images into the encoder's input.

Workers return uint8 pixels of the model's size, which take a quarter of the bytes of float32 in shared
memory and on the way to a GPU. `Pixels` normalizes them on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
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
    """Return open_clip's `preprocess_cfg`: resize the shortest side (bicubic), crop the center, normalize.

    Args:
        settings: mean and standard deviation.
        size: side of the square, in pixels.
    """
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
    """Return a function from an image (PIL, RGB) to (3, size, size) uint8.

    Args:
        settings: random crop and flip.
        size: side of the square, in pixels.
        training: whether to crop and flip at random; otherwise the center is cropped.
    """
    bicubic = InterpolationMode.BICUBIC
    if not training:
        return Compose([Resize(size, interpolation=bicubic), CenterCrop(size), PILToTensor()])
    flip = [RandomHorizontalFlip(settings.flip)] if settings.flip else []
    crop = RandomResizedCrop(size, scale=settings.crop_scale, interpolation=bicubic)
    return Compose([crop, *flip, PILToTensor()])


class StoredTransform:
    """A transform of stored inputs, (b, d) float32 or (b, 3, h, w) uint8, into the tower's input.

    Features are not changed. Images are cropped to the tower's size: at random in training, which
    also flips a fraction `transform.flip` of them, otherwise in the center.
    """

    def __init__(self, settings: TransformSettings, shape: Sequence[int], *, training: bool):
        self._shape, self._training, self._flip = tuple(shape), training, settings.flip

    def takes(self, stored: Sequence[int]) -> bool:
        """Return whether inputs stored in this shape fit the tower."""
        found = tuple(stored)
        if len(found) == 1:
            return found == self._shape
        return len(self._shape) == 3 and all(a >= b for a, b in zip(found, self._shape, strict=True))

    def __call__(self, stored: Tensor, draws: npt.NDArray[np.float64]) -> Tensor:
        """Crop and flip by `draws` (b, 3) in [0, 1): top and left of the crop, and the flip."""
        return stored if stored.dim() == 2 else self._cropped(stored, draws)

    def _cropped(self, images: Tensor, draws: npt.NDArray[np.float64]) -> Tensor:
        _, height, width = self._shape
        free = np.array([images.shape[2] - height, images.shape[3] - width])  # number of positions of the crop, minus 1
        corners = draws[:, :2] * (free + 1) if self._training else np.tile(free / 2, (len(images), 1))
        result = images.new_empty((len(images), *self._shape))
        for row, (top, left) in enumerate(corners.astype(np.int64).tolist()):
            result[row] = images[row, :, top : top + height, left : left + width]
        if self._training and self._flip:
            mirrored = torch.from_numpy(np.flatnonzero(draws[:, 2] < self._flip))
            result[mirrored] = result[mirrored].flip(3)
        return result


class Pixels(nn.Module):
    """A normalization of images that is, on a CPU, bit-equal to torchvision's `ToTensor` and `Normalize`."""

    mean: Tensor
    std: Tensor
    white: Tensor

    def __init__(self, settings: TransformSettings):
        super().__init__()
        for name in ("mean", "std"):
            values = torch.tensor(getattr(settings, name), dtype=torch.float32)[:, None, None]
            self.register_buffer(name, values, persistent=False)
        # A tensor: CUDA multiplies by the reciprocal of a plain number, which rounds differently.
        self.register_buffer("white", torch.tensor(255.0), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return uint8 pixels as contiguous, normalized (b, 3, h, w) float32, and other tensors as they are."""
        if images.dtype != torch.uint8:
            return images
        scaled = images.to(torch.float32, memory_format=torch.contiguous_format).div_(self.white)
        return scaled.sub_(self.mean).div_(self.std)
