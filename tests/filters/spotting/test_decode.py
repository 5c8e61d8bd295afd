"""Hostile bytes: every kind ends as upright BGR pixels or as an UnreadableImage with the right
reason."""

import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open_diht.common.images import BadImageReason
from open_diht.filters.spotting.decode import DecodeLimits, UnreadableImage, decode_image
from open_diht.filters.spotting.decode import UnreadableImageReason as Reason
from tests.common.hostile_images import chunk, encode, noise

LIMITS = DecodeLimits()
RED = (220, 30, 30)


def png_with_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def jpeg_with_header(width: int, height: int) -> bytes:
    """A small JPEG whose frame header claims another size."""
    data = bytearray(encode(noise(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def without_adobe_marker(jpeg: bytes) -> bytes:
    start = jpeg.index(b"\xff\xee")
    (length,) = struct.unpack(">H", jpeg[start + 2 : start + 4])
    return bytes(jpeg[:start] + jpeg[start + 2 + int(length) :])


def damaged_stream(png: bytes) -> bytes:
    """A PNG whose compressed pixels are no zlib stream, in a container with valid checksums."""
    start = png.index(b"IDAT")
    (length,) = struct.unpack(">I", png[start - 4 : start])
    body = b"\xff" * int(length)
    return (
        png[: start + 4]
        + body
        + struct.pack(">I", zlib.crc32(b"IDAT" + body))
        + png[start + 8 + length :]
    )


def half(format: str) -> Callable[[], bytes]:
    return lambda: (data := encode(noise(), format))[: len(data) // 2]


BAD: dict[str, tuple[Callable[[], bytes], set[Reason]]] = {
    "no bytes": (lambda: b"", {Reason.EMPTY}),
    "an HTML error page": (
        lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        {Reason.NOT_AN_IMAGE},
    ),
    "plain text": (lambda: b"Forbidden\n", {Reason.NOT_AN_IMAGE}),
    "JSON": (lambda: b'{"error": "expired"}', {Reason.NOT_AN_IMAGE}),
    "SVG": (
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        {Reason.NOT_AN_IMAGE},
    ),
    "PDF": (lambda: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", {Reason.NOT_AN_IMAGE}),
    "PostScript": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        {Reason.NOT_AN_IMAGE},
    ),
    "a gzip file": (lambda: b"\x1f\x8b\x08\x00" + bytes(200), {Reason.NOT_AN_IMAGE}),
    "random bytes": (
        lambda: np.random.default_rng(1).integers(0, 256, 5000, dtype=np.uint8).tobytes(),
        {Reason.NOT_AN_IMAGE},
    ),
    "zeros": (lambda: bytes(5000), {Reason.NOT_AN_IMAGE}),
    "a JPEG cut in half": (half("JPEG"), {Reason.TRUNCATED}),
    "a PNG cut in half": (half("PNG"), {Reason.TRUNCATED}),
    "a WebP cut in half": (half("WEBP"), {Reason.TRUNCATED, Reason.CORRUPT}),
    "a GIF cut in half": (half("GIF"), {Reason.TRUNCATED}),
    "a PNG of 8 bytes": (lambda: b"\x89PNG\r\n\x1a\n", {Reason.TRUNCATED}),
    "a JPEG of 4 bytes": (lambda: b"\xff\xd8\xff\xe0", {Reason.TRUNCATED}),
    "a PNG with damaged pixels": (
        lambda: damaged_stream(encode(noise(), "PNG")),
        {Reason.CORRUPT, Reason.TRUNCATED},
    ),
    "a PNG without pixels": (lambda: png_with_header(20, 20), {Reason.TRUNCATED, Reason.CORRUPT}),
    "a PNG bomb": (lambda: png_with_header(60_000, 60_000), {Reason.TOO_MANY_PIXELS}),
    "a PNG of 2 000 000 000 columns": (
        lambda: png_with_header(2_000_000_000, 1),
        {Reason.TOO_MANY_PIXELS},
    ),
    "a JPEG that claims 65 500 x 65 500": (
        lambda: jpeg_with_header(65_500, 65_500),
        {Reason.TOO_MANY_PIXELS},
    ),
    "a PNG of 0 columns": (lambda: png_with_header(0, 7), {Reason.CORRUPT, Reason.TRUNCATED}),
    "a TIFF": (lambda: encode(noise(), "TIFF"), {Reason.NOT_AN_IMAGE}),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_bytes_are_named(kind):
    make, reasons = BAD[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UnreadableImage) as caught:
            decode_image(make(), LIMITS)
    assert caught.value.reason in reasons and caught.value.message


def test_a_file_over_the_limit_is_not_looked_at():
    with pytest.raises(UnreadableImage) as caught:
        decode_image(encode(noise(), "PNG"), DecodeLimits(max_bytes=100))
    assert caught.value.reason is Reason.TOO_MANY_BYTES


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return bytes(tags.tobytes())


def flat(mode: str, colour: object, size: tuple[int, int] = (40, 20)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


def palette_with_transparency() -> bytes:
    image = flat("P", 0)
    image.putpalette([0, 0, 0, 220, 30, 30])
    return encode(image, "PNG", transparency=0)


def sixteen_bit(value: int, transparent: int | None = None) -> bytes:
    png = encode(Image.fromarray(np.full((20, 40), value, np.uint16)), "PNG")
    at = png.index(b"IDAT") - 4  # Pillow writes no transparent value of 16 bits
    return (
        png
        if transparent is None
        else png[:at] + chunk(b"tRNS", struct.pack(">H", transparent)) + png[at:]
    )


def sixteen_bit_rgb() -> bytes:
    """Pillow does not write 16-bit RGB, so by hand: every sample 0x8000."""
    row = b"\0" + b"\x80\x00" * 3 * 40
    header = struct.pack(">IIBBBBB", 40, 20, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * 20))
        + chunk(b"IEND", b"")
    )


BLUE = flat("RGB", (0, 0, 255))
CYAN = flat("CMYK", (255, 0, 0, 0))
GOOD: dict[str, tuple[Callable[[], bytes], tuple[int, int, int]]] = {  # name -> bytes, expected RGB
    "JPEG": (lambda: encode(flat("RGB", RED), "JPEG", quality=95), RED),
    "progressive JPEG": (
        lambda: encode(flat("RGB", RED), "JPEG", quality=95, progressive=True),
        RED,
    ),
    "PNG": (lambda: encode(flat("RGB", RED), "PNG"), RED),
    "lossless WebP": (lambda: encode(flat("RGB", RED), "WEBP", lossless=True), RED),
    "BMP": (lambda: encode(flat("RGB", RED), "BMP"), RED),
    "grey": (lambda: encode(flat("L", 77), "PNG"), (77, 77, 77)),
    "1 bit": (lambda: encode(flat("1", 1), "PNG"), (255, 255, 255)),
    "CMYK JPEG, inverted as Adobe does": (lambda: encode(CYAN, "JPEG", quality=95), (0, 255, 255)),
    "CMYK JPEG, plain": (
        lambda: without_adobe_marker(encode(flat("CMYK", (0, 255, 255, 255)), "JPEG", quality=95)),
        (0, 255, 255),
    ),
    "16-bit grey, dark": (lambda: sixteen_bit(300), (1, 1, 1)),
    "16-bit grey, middle": (lambda: sixteen_bit(32768), (128, 128, 128)),
    "16-bit grey, transparent": (lambda: sixteen_bit(300, 300), (255, 255, 255)),
    "16-bit grey, another value is transparent": (lambda: sixteen_bit(300, 301), (1, 1, 1)),
    "16-bit RGB": (sixteen_bit_rgb, (128, 128, 128)),
    "transparent RGBA on white": (
        lambda: encode(flat("RGBA", (0, 0, 0, 0)), "PNG"),
        (255, 255, 255),
    ),
    "half transparent RGBA": (lambda: encode(flat("RGBA", (0, 0, 0, 128)), "PNG"), (127, 127, 127)),
    "transparent LA": (lambda: encode(flat("LA", (0, 0)), "PNG"), (255, 255, 255)),
    "transparent palette": (palette_with_transparency, (255, 255, 255)),
    "animated GIF, first frame": (
        lambda: encode(flat("RGB", RED), "GIF", save_all=True, append_images=[BLUE]),
        RED,
    ),
    "animated WebP, first frame": (
        lambda: encode(
            flat("RGB", RED), "WEBP", save_all=True, lossless=True, append_images=[BLUE]
        ),
        RED,
    ),
    "animated PNG, first frame": (
        lambda: encode(flat("RGB", RED), "PNG", save_all=True, append_images=[BLUE]),
        RED,
    ),
    "JPEG with a second image (MPO)": (
        lambda: encode(flat("RGB", RED), "MPO", save_all=True, append_images=[BLUE]),
        RED,
    ),
    "broken colour profile": (
        lambda: encode(flat("RGB", RED), "PNG", icc_profile=b"not a profile"),
        RED,
    ),
    "broken EXIF": (
        lambda: encode(flat("RGB", RED), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        RED,
    ),
    "EXIF orientation 99": (
        lambda: encode(flat("RGB", RED), "JPEG", quality=95, exif=exif(99)),
        RED,
    ),
    "bytes after the end": (lambda: encode(flat("RGB", RED), "PNG") + b"<script>", RED),
}


@pytest.mark.parametrize("kind", GOOD)
def test_odd_images_have_the_right_colours(kind):
    make, (red, green, blue) = GOOD[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_image(make(), LIMITS)
    assert decoded.pixels.shape == (20, 40, 3) and decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags["C_CONTIGUOUS"] and (decoded.width, decoded.height) == (40, 20)
    assert decoded.pixels.reshape(-1, 3).mean(axis=0) == pytest.approx((blue, green, red), abs=3)


def test_content_decides_and_one_pixel_is_an_image():
    assert decode_image(encode(noise(), "PNG"), LIMITS).format == "PNG"
    decoded = decode_image(encode(flat("RGB", RED, (1, 1)), "PNG"), LIMITS)
    assert decoded.pixels.tolist() == [[[30, 30, 220]]]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_makes_upright(orientation, format):
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)  # a red corner at the top left
    stored: dict[int, Callable[[Any], Any]] = {  # what a camera that was held so has stored
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(stored[orientation](upright)))
    lossless: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
    }
    data = encode(image, format, exif=exif(orientation), **lossless.get(format, {}))
    decoded = decode_image(data, LIMITS)
    assert (decoded.width, decoded.height) == (40, 24)
    assert np.abs(decoded.pixels[:, :, ::-1].astype(int) - upright).max() <= 3


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_large_images_are_reduced_and_remember_their_size(format):
    data = encode(noise(500, 1000), format)
    decoded = decode_image(data, DecodeLimits(decode_side=320))
    assert (decoded.width, decoded.height) == (500, 1000) and 320 <= max(
        decoded.pixels.shape
    ) < 2 * 320
    assert decode_image(data, DecodeLimits(decode_side=0)).pixels.shape == (1000, 500, 3)


@given(
    st.binary(max_size=400),
    st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]),
    st.integers(0, 400),
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_anything_but_unreadable_image(noise_bytes, format, keep):
    data = encode(noise(24, 18), format)[:keep] + noise_bytes
    try:
        decoded = decode_image(data, DecodeLimits(max_pixels=10_000))
    except UnreadableImage as bad:
        assert isinstance(bad.reason, Reason)
    else:
        assert decoded.pixels.ndim == 3


def test_every_reason_of_images_is_one_of_images():
    assert {str(reason) for reason in BadImageReason} <= {str(reason) for reason in Reason}
