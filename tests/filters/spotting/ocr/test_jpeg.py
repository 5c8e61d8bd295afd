"""OpenCV's JPEG decoder in place of Pillow's: the same pixels, and the same reasons where there are
none."""

import random

import numpy as np
import pytest
from PIL import Image

from open_diht.filters.spotting.decode import (
    DecodedImage,
    DecodeLimits,
    UnreadableImage,
    decode_image,
)
from open_diht.filters.spotting.ocr.jpeg import decode_jpeg
from tests.common.hostile_images import encode, noise


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    down, across = np.mgrid[:height, :width]
    waves = [128 + 120 * np.sin(across / 7 + shift) * np.cos(down / 11) for shift in (0, 1, 2)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).convert(mode)


def result(data: bytes, limits: DecodeLimits, quick: bool) -> DecodedImage | str:
    try:
        return decode_image(data, limits, decode_jpeg if quick else None)
    except UnreadableImage as bad:
        return str(bad)


@pytest.mark.parametrize("side", [0, 32, 100])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(333, 217), (64, 700), (65, 64), (7, 900), (1, 1)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2, "progressive": True}])
def test_pixels_are_those_of_pillow(size, mode, side, options):
    data = encode(picture(size[0], size[1], mode), "JPEG", quality=80, **options)
    limits = DecodeLimits(decode_side=side)
    known, quick = (decode_image(data, limits, decoder) for decoder in (None, decode_jpeg))
    assert np.array_equal(known.pixels, quick.pixels)
    assert (known.width, known.height, known.format) == (quick.width, quick.height, quick.format)


def test_turned_images_are_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_image(encode(picture(60, 30), "JPEG", exif=exif), DecodeLimits(), decode_jpeg)
    assert image.pixels.shape == (60, 30, 3)


def test_damage_is_named_as_by_pillow(capfd):
    """Bytes changed, lost and cut off at random."""
    rng = random.Random(2)
    data = encode(noise(), "JPEG")
    limits = DecodeLimits()
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.choice((0, 1, 5))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        start = rng.randrange(len(damaged))
        del damaged[start : start + rng.choice((0, 1, 50))]
        whole = (
            bytes(damaged) if rng.random() < 0.7 else bytes(damaged[: rng.randrange(len(damaged))])
        )
        known = result(whole, limits, False)
        quick = result(whole, limits, True)
        if isinstance(known, str) or isinstance(quick, str):
            assert known == quick
        else:
            assert np.array_equal(known.pixels, quick.pixels)
