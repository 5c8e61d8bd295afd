"""Images to pixels of the model's size: open_clip's transforms up to where they become floats (`pixels` goes on)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, RandomResizedCrop, Resize

from trainer.config import TransformSettings


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
    """An image (PIL, RGB) to (3, size, size) uint8: with a random crop while training, a centre crop otherwise."""
    bicubic = InterpolationMode.BICUBIC
    if training:
        return Compose([RandomResizedCrop(size, scale=settings.crop_scale, interpolation=bicubic), PILToTensor()])
    return Compose([Resize(size, interpolation=bicubic), CenterCrop(size), PILToTensor()])
