"""Images to inputs: open_clip's transforms with the configuration's constants."""

from __future__ import annotations

from typing import Any

from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2

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


def transform(settings: TransformSettings, size: int, *, training: bool) -> Any:
    """An image (PIL) to a (3, size, size) float32 tensor: with a random crop while training, a centre crop
    otherwise."""
    augmentation = AugmentationCfg(scale=settings.crop_scale) if training else None
    return image_transform_v2(PreprocessCfg(**preprocessing(settings, size)), is_train=training, aug_cfg=augmentation)
