"""Turn images into the encoder's input, as open_clip's transforms do.

Workers return uint8 pixels of the model's size, which take a quarter of the bytes of float32 in
shared memory and on the way to a GPU. `Pixels` normalizes them on the device.
"""

from collections.abc import Callable
from typing import Any

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
    """Return open_clip's `preprocess_cfg`: resize the shortest side (bicubic), crop the center,
    normalize."""
    return {
        "size": size,
        "mode": "RGB",
        "mean": list(settings.mean),
        "std": list(settings.std),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }


def transform(
    settings: TransformSettings, size: int, *, training: bool, cropped: bool = False
) -> Callable[[Image.Image], Tensor]:
    """Return a function from an image (PIL, RGB) to (3, size, size) uint8, random if `training`.
    With `cropped` it gets a crop of that size for training, which it only flips."""
    bicubic = InterpolationMode.BICUBIC
    if not training:
        return Compose([Resize(size, interpolation=bicubic), CenterCrop(size), PILToTensor()])
    flip = [RandomHorizontalFlip(settings.flip)] if settings.flip else []
    crop = (
        []
        if cropped
        else [RandomResizedCrop(size, scale=settings.crop_scale, interpolation=bicubic)]
    )
    return Compose([*crop, *flip, PILToTensor()])


class Pixels(nn.Module):
    """A normalization of images that is, on a CPU, bit-equal to torchvision's `ToTensor` and
    `Normalize`."""

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
        """Return uint8 pixels as contiguous, normalized (b, 3, h, w) float32, and other tensors as
        they are."""
        if images.dtype != torch.uint8:
            return images
        scaled = images.to(torch.float32, memory_format=torch.contiguous_format).div_(self.white)
        return scaled.sub_(self.mean).div_(self.std)
