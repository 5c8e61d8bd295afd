"""Crops that a teacher and a training share: the middle of a long image, and random ones from a
seed and a key."""

import hashlib
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, as in Pillow."""
Draws = npt.NDArray[np.float64]
MAX_ASPECT = 20
"""Largest aspect ratio of an image that models see. The ends of longer ones are cut off, because
resizing the shorter side would make a line of pixels enormous."""
MOST_RATIO = 4 / 3
"""Largest ratio of a crop's sides before it is made square, as in torchvision's
RandomResizedCrop."""


def middle_box(width: int, height: int) -> Box:
    """Return the middle of an image that is longer than `MAX_ASPECT`, otherwise the whole image."""
    left = max(0, (width - MAX_ASPECT * height) // 2)
    top = max(0, (height - MAX_ASPECT * width) // 2)
    return left, top, width - left, height - top


def middle(image: Image.Image) -> Image.Image:
    """Return the middle of an image, see `middle_box`."""
    box = middle_box(*image.size)
    return image if box == (0, 0, *image.size) else image.crop(box)


def crop_of(seed: int, key: str, crop: int) -> Draws:
    """Return the draws (4,) in [0, 1) of crop number `crop` of the sample `key`: for area, ratio,
    top and left."""
    digest = hashlib.blake2b(
        f"{seed} {crop} {key}".encode("utf-8", "surrogateescape"), digest_size=32
    ).digest()
    return np.ldexp((np.frombuffer(digest, "<u8") >> 11).astype(np.float64), -53)


def crop_box(draws: Draws, width: int, height: int, scale: tuple[float, float]) -> Box:
    """Return the crop of an image for the draws of `crop_of`. `scale` is the range of the fraction
    of the area.

    Area and ratio are distributed as in torchvision's RandomResizedCrop, which draws again if a
    crop does not fit. Here only ratios that fit are drawn. An image that is too long for the area
    gets the largest crop of a ratio in range.
    """
    kept = scale[0] + draws[0] * (scale[1] - scale[0])
    least = max(1 / MOST_RATIO, kept * width / height)
    most = min(MOST_RATIO, width / (kept * height))
    if least <= most:
        ratio = least * (most / least) ** draws[1]
        wide = math.sqrt(kept * width * height * ratio)
    else:
        ratio = min(max(width / height, 1 / MOST_RATIO), MOST_RATIO)
        wide = min(width, height * ratio)
    w, h = (
        max(1, min(most, round(side))) for side, most in ((wide, width), (wide / ratio, height))
    )
    left = int(draws[3] * (width - w + 1))
    top = int(draws[2] * (height - h + 1))
    return left, top, left + w, top + h


def cropped(image: Image.Image, box: Box, size: int) -> Image.Image:
    """Return a crop, resized to a square (bicubic)."""
    return image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
