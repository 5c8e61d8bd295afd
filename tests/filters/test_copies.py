"""Copies of images are found by their hashes, and other images are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from open_diht.filters import copies
from open_diht.filters.decontamination import PIXELS
from tests.common.hostile_images import encode

SAMPLE = sorted((Path(__file__).parents[2] / "data" / "sample" / "images").glob("*.jpg"))[:36]
MOST = 22


def stored(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    return encode(image.convert("RGB"), form, **options)


def cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 30, height // 15, width - width // 15, height - height // 30))


def with_caption(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).text(
        (4, image.height - 20), "on sale now, 50 % off", fill="white", stroke_width=2
    )
    return image


CHANGES = {
    "smaller": lambda image: stored(image.resize((image.width // 2, image.height // 2))),
    "quality 50": lambda image: stored(image, quality=50),
    "cropped": lambda image: stored(cropped(image)),
    "mirrored": lambda image: stored(ImageOps.mirror(image)),
    "framed": lambda image: stored(ImageOps.expand(image, 16, "white")),
    "captioned": lambda image: stored(with_caption(image.copy())),
    "gray": lambda image: stored(image.convert("L")),
}


@pytest.fixture(scope="module")
def index() -> copies.HashIndex:
    hashes = [copies.variants(copies.look(path.read_bytes()).luma) for path in SAMPLE[:24]]
    return copies.HashIndex(
        np.concatenate(hashes), np.repeat(np.arange(24), [len(one) for one in hashes])
    )


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_named(index, change):
    images = [Image.open(path).convert("RGB") for path in SAMPLE[:24]]
    looks = np.stack([copies.views(copies.look(CHANGES[change](image)).luma) for image in images])
    found, bits = index.nearest(looks, MOST)
    right = found == np.arange(24)
    assert right.mean() >= 0.9 and (right | (found == -1)).all()
    assert (bits[right] <= MOST).all() and (bits[~right] == -1).all()


def test_other_and_blank_images_are_not_found(index):
    others = [path.read_bytes() for path in SAMPLE[24:]]
    others += [stored(Image.new("RGB", (200, 100), color)) for color in ("white", "black", "red")]
    looks = np.stack([copies.views(copies.look(data).luma) for data in others])
    found, bits = index.nearest(looks, MOST)
    assert (found == -1).all() and (bits == -1).all()


def test_the_tables_find_what_a_comparison_with_all_finds():
    dice = np.random.default_rng(0)
    hashes = dice.integers(0, 1 << 63, (500, copies.WORDS), dtype=np.uint64)
    looks = np.zeros((50, 3), copies.HASH)
    looks["bits"][:, 0] = hashes[::10]
    # Of three of the eight parts.
    looks["bits"][:, 0, 1] ^= dice.integers(0, 1 << 40, 50, dtype=np.uint64)
    index = copies.HashIndex(hashes, np.arange(500))
    found, bits = index.nearest(looks, 40)
    every = np.bitwise_count(looks["bits"][:, :1] ^ hashes[None]).sum(axis=2)
    assert (found == every.argmin(axis=1)).all() and (bits == every.min(axis=1)).all()
    assert (copies.HashIndex(hashes[:0], np.arange(0)).nearest(looks, 40)[0] == -1).all()


def test_pixels_are_equal_in_another_file_of_the_same_pixels():
    image = Image.open(SAMPLE[0]).convert("RGB").resize((150, 100))
    digests = {form: copies.look(stored(image, form)).pixels for form in ("PNG", "BMP")}
    assert digests["PNG"] == digests["BMP"] != copies.look(stored(image)).pixels
    assert (
        copies.look(stored(image.transpose(Image.Transpose.ROTATE_90), "PNG")).pixels
        != digests["PNG"]
    )


def test_only_large_images_are_reduced_before_their_pixels_are_compared():
    assert str(copies.REDUCED_TO) in PIXELS
    for width, same in ((191, False), (192, True)):
        image = Image.open(SAMPLE[0]).convert("RGB").resize((width, 100))
        other = image.copy()
        two = image.crop((0, 0, 2, 1))
        other.paste(ImageOps.mirror(two), (0, 0))  # of a block of 2 x 2, whose mean stays
        assert ImageOps.mirror(two) != two
        digests = {copies.look(stored(one, "PNG")).pixels for one in (image, other)}
        assert (len(digests) == 1) == same and None not in digests


@pytest.mark.parametrize("size", [(1, 1), (50, 40), (800, 600)])
def test_blank_images_have_no_digest_of_pixels(size):
    blank = Image.new("RGB", size, "white")
    assert copies.look(stored(blank, "PNG")).pixels is None
    blank.putpixel((0, 0), (250, 250, 250))
    assert copies.look(stored(blank, "PNG")).pixels is None
