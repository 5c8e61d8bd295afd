"""Decode untrusted image bytes into pixels that an OCR engine can read.

Images of the web include bombs, truncated downloads, HTML error pages, animations, CMYK scans and
16-bit PNGs. `decode_image` returns upright BGR pixels, or raises `UnreadableImage` with one reason
from a closed list, or MemoryError. `open_diht.common.images` decides what is accepted, and within
which limits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from open_diht.common.images import BadImage, ImageLimits, OpenedImage, decoding, open_image, to_rgb

Pixels = npt.NDArray[np.uint8]
JpegDecoder = Callable[[bytes, int], Pixels | None]
"""Decodes a JPEG at a scale (1, 2, 4 or 8: its sides are divided by it, rounded up) to uint8
(height, width, 3), blue green red. It returns None for a JPEG that it cannot decode."""


class UnreadableImageReason(StrEnum):
    """Reason why an image has no spotting. The values are written to data sets: add values, never
    rename them."""

    # The reasons of open_diht.common.images.BadImageReason, with the limits of DecodeLimits:
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_COMPLEX = "too_complex"
    # Reasons of spotting:
    OCR_CRASHED = "ocr_crashed"  # the OCR process died on it (see spotter.py)
    OCR_TIMEOUT = "ocr_timeout"  # the OCR process did not answer in time (see spotter.py)
    OCR_FAILED = "ocr_failed"  # the OCR engine raised an error on it (see worker.py)


class UnreadableImage(BadImage):
    """An image that cannot be spotted; `reason` goes into the dead-letter table, the message gives
    the details."""

    reason: UnreadableImageReason


@dataclass(frozen=True, kw_only=True)
class DecodeLimits(ImageLimits):
    """How large an image may be, and how far it is reduced while decoding."""

    decode_side: int = 960
    """An image is reduced by a whole factor (2, 3, ...) as long as its longest side does not fall
    below this; 0 decodes every pixel. Large JPEGs are decoded at a half, a quarter or an eighth,
    which saves most of the time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decode_side < 0:
            raise ValueError(
                f"DecodeLimits.decode_side is {self.decode_side}; it must be 0 (off) or a number of"
                " pixels"
            )


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """A decoded image, upright, possibly reduced."""

    pixels: Pixels
    """uint8 (height, width, 3), blue green red, C-contiguous; smaller than the original if it was
    reduced."""
    width: int
    """Width of the upright original, in pixels."""
    height: int
    """Height of the upright original, in pixels."""
    format: str
    """Pillow's name of the format of the content, such as `JPEG`."""


# The factors of cv2.IMREAD_REDUCED_COLOR and 1, largest first.
_SCALES: Final = (8, 4, 2, 1)
_JPEG_END: Final = b"\xff\xd9"


def decode_image(
    data: bytes, limits: DecodeLimits, decode_jpeg: JpegDecoder | None = None
) -> DecodedImage:
    """Decode the first frame of an image to upright BGR. Call it from one thread per process
    (`open_diht.common.images`).

    Transparency is composed on white, except in 16-bit grey. CMYK (also Adobe's inverted one)
    becomes RGB. 16-bit samples are scaled, not clipped. The EXIF orientation is applied; color
    profiles are ignored. An image of 1 x 1 pixel is an image; its use is the caller's decision.

    `decode_jpeg` decodes plain JPEGs (whole, grey or RGB, upright). Pillow decodes all other
    images, also those for which `decode_jpeg` returns None or that it cannot reduce enough for
    `limits`. Raise UnreadableImage if the bytes cannot be decoded or exceed a limit, and otherwise
    only MemoryError, which says nothing about the image.
    """
    try:
        return _decoded(data, limits, decode_jpeg)
    except BadImage as bad:
        raise UnreadableImage(UnreadableImageReason(bad.reason), bad.message) from bad


def _decoded(data: bytes, limits: DecodeLimits, decode_jpeg: JpegDecoder | None) -> DecodedImage:
    opened = open_image(data, limits)
    image, (width, height) = opened.image, opened.image.size
    side = limits.decode_side
    factor = max(width, height) // side if side else 1
    least = (max(1, width // factor), max(1, height // factor)) if factor >= 2 else None
    plain = _plain_jpeg(opened, least, decode_jpeg) if decode_jpeg else None
    if plain is not None and (not side or max(plain.shape) < 2 * side):
        return DecodedImage(pixels=plain, width=width, height=height, format="JPEG")
    image = opened.decode(at_least=least)
    with decoding(f"{image.format} with pixels of mode {image.mode}"):
        # The JPEG decoder may have reduced the image already.
        rest = max(image.size) // side if side else 1
        rgb = to_rgb(image)
        upright = opened.upright(rgb.reduce(rest) if rest >= 2 else rgb)
    if opened.orientation >= 5:  # the four orientations that swap the sides
        width, height = height, width
    # Pillow swaps red and blue three times as fast as numpy does; the bytearray makes the pixels
    # writable.
    swapped = bytearray(upright.tobytes("raw", "BGR"))
    pixels = np.frombuffer(swapped, np.uint8).reshape(upright.height, upright.width, 3)
    return DecodedImage(pixels=pixels, width=width, height=height, format=image.format or "unknown")


def _plain_jpeg(
    opened: OpenedImage, least: tuple[int, int] | None, decode_jpeg: JpegDecoder
) -> Pixels | None:
    """Return the pixels of a JPEG that needs only decoding. Return None if Pillow must do more or
    report its error."""
    image = opened.image
    if image.format != "JPEG" or image.mode not in ("RGB", "L") or opened.orientation != 1:
        return None
    if not opened.data.endswith(_JPEG_END):
        return None
    room = min(image.width // least[0], image.height // least[1]) if least else 1
    return decode_jpeg(opened.data, next(scale for scale in _SCALES if scale <= room))
