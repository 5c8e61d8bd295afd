"""Hostile bytes become pixels or one error."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from open_diht.filters.spotting.decode import DecodeLimits, decode_image
from open_diht.trainer.data.reader import UndecodableImage, decode
from tests.common.hostile_images import BOMBS


def encoded(image: Image.Image, ending: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, ending, **options)
    return content.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (6, 4))
    ending = "JPEG" if mode == "CMYK" else "PNG"
    assert (decode(encoded(image, ending), 100).mode, decode(encoded(image, ending), 100).size) == (
        "RGB",
        (6, 4),
    )


def hidden() -> Image.Image:
    """Pixels of a color that transparency hides, as in logos."""
    return Image.new("RGBA", (6, 4), (200, 0, 0, 0))


@pytest.mark.parametrize(
    ("content", "color"),
    [
        (encoded(hidden(), "PNG"), 255),
        (encoded(hidden().convert("LA"), "PNG"), 255),
        (encoded(Image.fromarray(np.full((4, 6), 32768, np.uint16)), "PNG"), 128),
    ],
)
def test_a_student_sees_the_colors_that_filters_and_teachers_see(
    content: bytes, color: int
) -> None:
    seen = np.asarray(decode(content, 100))
    assert (seen == color).all()
    assert np.array_equal(seen, decode_image(content, DecodeLimits()).pixels[:, :, ::-1])


def test_images_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif), 100).size == (4, 6)


def test_large_jpegs_are_decoded_smaller_but_never_too_small() -> None:
    content = encoded(Image.new("RGB", (640, 480)), "JPEG")
    sizes = [decode(content, 10**6, side).size for side in (None, 480, 241, 240, 100, 60, 1)]
    assert sizes == [(640, 480), (640, 480), (640, 480), (320, 240), (160, 120), (80, 60), (80, 60)]
    assert decode(encoded(Image.new("RGB", (640, 480)), "PNG"), 10**6, 60).size == (640, 480)


def test_cut_images_bombs_and_pages_are_bad() -> None:
    whole = encoded(Image.effect_noise((64, 64), 50), "JPEG")
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = (
        struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    for content in (
        whole[: len(whole) // 2],
        b"",
        b"<html>",
        b"\x89PNG\r\n\x1a\n" + chunk,
        b"%!PS-Adobe",
    ):
        with pytest.raises(UndecodableImage):
            decode(content, 100_000_000)
    with pytest.raises(
        UndecodableImage, match=r"64 x 64 pixels; at most 4,000 .*; data\.max_pixels sets the limit"
    ):
        decode(whole, 4_000)


@pytest.mark.parametrize(
    "name", ["a JPEG of 1,000 scans", "a GIF of 400,000 comments", "a TIFF of one tile"]
)
def test_images_that_cost_too_much_are_bad(name: str) -> None:
    with pytest.raises(UndecodableImage, match=BOMBS[name][1]):
        decode(BOMBS[name][0](), 100_000_000)


@given(
    noise=st.binary(max_size=500),
    start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"II*\0"]),
)
def test_noise_is_bad_and_nothing_else(noise: bytes, start: bytes) -> None:
    with pytest.raises(UndecodableImage):
        decode(start + noise, 1000)
