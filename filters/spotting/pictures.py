"""From hostile bytes to pixels an OCR engine can read.

Pictures of the web are bombs, truncated downloads, HTML error pages, animations, CMYK scans and 16-bit PNGs.
`decode_picture` either returns upright BGR pixels or raises `BadPicture` with one reason out of a closed list; it never
crashes, and it looks at the content only: file names and declared media types are ignored.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]


class BadPictureReason(StrEnum):
    """Why a picture has no spotting. The values are written to data sets: add, never rename."""

    EMPTY = "empty"  # no bytes at all
    NOT_A_PICTURE = "not_a_picture"  # HTML, JSON, PDF, SVG, noise, or a format outside `FORMATS`
    TRUNCATED = "truncated"  # a picture whose end is missing
    CORRUPT = "corrupt"  # a picture whose header or body contradicts its format
    TOO_MANY_BYTES = "too_many_bytes"  # larger than PictureLimits.max_bytes
    TOO_MANY_PIXELS = "too_many_pixels"  # larger than PictureLimits.max_pixels or max_side, by its header
    UNSUPPORTED_MODE = "unsupported_mode"  # pixels that have no meaning as RGB, such as 32-bit floats
    OCR_CRASHED = "ocr_crashed"  # the OCR process died on it (see spotter.py)
    OCR_TIMEOUT = "ocr_timeout"  # the OCR process did not answer in time (see spotter.py)
    OCR_FAILED = "ocr_failed"  # the OCR engine raised an error on it (see spotter.py)


class BadPicture(Exception):
    """A picture that cannot be spotted; `reason` goes into the dead letter, the message says what was found."""

    def __init__(self, reason: BadPictureReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True, kw_only=True)
class PictureLimits:
    """How large a picture may be, and how small it may be made while decoding."""

    max_bytes: int = 64 * 2**20
    """Longest accepted file, in bytes."""
    max_pixels: int = 100_000_000
    """Largest accepted width x height by the header, before any pixel is decoded; 100 million are 300 MB as RGB."""
    max_side: int = 30_000
    """Longest accepted side in pixels by the header."""
    decode_side: int = 960
    """A picture is reduced by a whole factor (2, 3, ...) while its longest side stays at or above this; 0 decodes every
    pixel. Large JPEGs are decoded at a half, a quarter or an eighth, which saves most of the time."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"PictureLimits.{name} is {getattr(self, name)}; it must be at least 1")
        if self.decode_side < 0:
            raise ValueError(
                f"PictureLimits.decode_side is {self.decode_side}; it must be 0 (off) or a number of pixels"
            )


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded picture, upright, perhaps reduced."""

    pixels: Pixels
    """uint8 array (height, width, 3), blue green red, C-contiguous; smaller than the original where it was reduced."""
    width: int
    """Width of the upright original, in pixels."""
    height: int
    """Height of the upright original, in pixels."""
    format: str
    """Pillow's name of the format found in the content, such as `JPEG`."""


FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "ICO", "PPM")
"""The formats we let Pillow try. A closed list, because Pillow also knows formats that start other programs (EPS) or
have no signature."""

_TRANSPOSITIONS: Final = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION: Final = 0x0112
_COLOUR_MODES: Final = frozenset({"RGB", "L", "1", "P", "RGBX", "YCbCr", "CMYK", "HSV"})
_ALPHA_MODES: Final = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
_PARSER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    EOFError,
)
"""What Pillow's format plugins raise on bytes that lie about themselves; they are plain Python parsers of untrusted
input."""
_BROKEN: Final = (*_PARSER_ERRORS, struct.error, zlib.error, RuntimeError, ZeroDivisionError)


def decode_picture(data: bytes, limits: PictureLimits) -> Picture:
    """Decodes the first frame of a picture to upright BGR.

    `data` is a whole file. Transparency is composed on white; CMYK (also Adobe's inverted one) becomes RGB; 16-bit
    samples are scaled, not clipped; the EXIF orientation is applied; colour profiles are ignored. A picture of 1 x 1
    pixel is a picture: its use is the caller's decision. Raises `BadPicture`, and nothing else, for any bytes;
    MemoryError is not caught, since it says nothing about the picture. Suppresses warnings for the duration of the call
    by `warnings.catch_warnings`, which is not thread-safe: one thread per process.
    """
    if not data:
        raise BadPicture(BadPictureReason.EMPTY, "0 bytes; the download has stored nothing")
    if len(data) > limits.max_bytes:
        raise BadPicture(
            BadPictureReason.TOO_MANY_BYTES, f"{len(data)} bytes; PictureLimits.max_bytes is {limits.max_bytes}"
        )
    with _quiet_pillow():
        image = _open(data)
        with image:
            _check_size(image, limits)
            width, height = image.size
            reduced = _read(image, limits.decode_side)
            # Only now: reading the EXIF of a PNG decodes it, and decoding again after a failure gives black, no error.
            orientation = _orientation(image)
            upright = reduced.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else reduced
            image_format = image.format or "unknown"
    if orientation >= 5:  # the four orientations that swap the sides
        width, height = height, width
    # Pillow swaps red and blue three times as fast as numpy does; the bytearray makes the pixels writable.
    swapped = bytearray(upright.tobytes("raw", "BGR"))
    pixels = np.frombuffer(swapped, np.uint8).reshape(upright.height, upright.width, 3)
    return Picture(pixels=pixels, width=width, height=height, format=image_format)


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Our own size check replaces Pillow's, whose first stage is a warning; damaged EXIF and TIFF tags warn as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open(data: bytes) -> Image.Image:
    """Reads the header. Pillow decides by content; the first bytes go into the message of what is not a picture."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        start = data[:24]
        if _has_picture_signature(data):
            reason = BadPictureReason.TRUNCATED if len(data) < 512 else BadPictureReason.CORRUPT
            raise BadPicture(
                reason, f"{len(data)} bytes start like a picture, but have no readable header: {start!r}"
            ) from error
        raise BadPicture(
            BadPictureReason.NOT_A_PICTURE, f"{len(data)} bytes in no accepted format, starting with {start!r}"
        ) from error
    except Image.DecompressionBombError as error:
        raise BadPicture(BadPictureReason.TOO_MANY_PIXELS, str(error)) from error
    except _BROKEN as error:
        raise BadPicture(BadPictureReason.CORRUPT, f"unreadable header: {type(error).__name__}: {error}") from error


def _has_picture_signature(data: bytes) -> bool:
    signatures = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*", b"BM")
    return data.startswith(signatures) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _check_size(image: Image.Image, limits: PictureLimits) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise BadPicture(BadPictureReason.CORRUPT, f"the header says {width} x {height} pixels")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise BadPicture(
            BadPictureReason.TOO_MANY_PIXELS,
            f"the header says {width} x {height} pixels; PictureLimits allows {limits.max_pixels} pixels and "
            f"{limits.max_side} a side",
        )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; a damaged EXIF block is no reason to lose the picture, which is then taken as
    upright."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _read(image: Image.Image, decode_side: int) -> Image.Image:
    """Decodes the first frame to RGB, reduced by a whole factor where the picture is larger than OCR needs."""
    longest = max(image.size)
    factor = longest // decode_side if decode_side else 1
    inverted_cmyk = image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info
    try:
        if factor >= 2 and image.format in ("JPEG", "MPO"):
            # libjpeg scales while decoding, by 1/2, 1/4 or 1/8 and never below the size asked for.
            image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))
        image.load()
    except _BROKEN as error:
        raise BadPicture(
            _kind_of_damage(error), f"{image.format} of {image.size}: {type(error).__name__}: {error}"
        ) from error
    rest = max(image.size) // decode_side if decode_side else 1
    rgb = _to_rgb(image, inverted_cmyk=inverted_cmyk)
    return rgb.reduce(rest) if rest >= 2 else rgb


def _kind_of_damage(error: BaseException) -> BadPictureReason:
    """Pillow has one class, OSError, for a missing end and for nonsense; only the message tells them apart."""
    text = str(error).lower()
    ended = isinstance(error, EOFError) or any(
        word in text for word in ("truncated", "not enough", "unexpected end", "premature")
    )
    return BadPictureReason.TRUNCATED if ended else BadPictureReason.CORRUPT


def _to_rgb(image: Image.Image, *, inverted_cmyk: bool) -> Image.Image:
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image))
    try:
        if mode in _ALPHA_MODES or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, rgba).convert("RGB")
        if mode == "CMYK" and inverted_cmyk:
            # Pillow assumes Adobe's inverted samples in every CMYK JPEG; without Adobe's marker they are plain.
            image = Image.fromarray(255 - np.asarray(image), "CMYK")
        if mode in _COLOUR_MODES:
            return image.convert("RGB")
    except _BROKEN as error:
        raise BadPicture(
            BadPictureReason.CORRUPT, f"{mode} pixels do not convert: {type(error).__name__}: {error}"
        ) from error
    raise BadPicture(
        BadPictureReason.UNSUPPORTED_MODE, f"{image.format} with pixels of mode {mode}, which have no meaning as RGB"
    )


def _from_16_bit(samples: npt.NDArray[np.generic]) -> Image.Image:
    """Grey samples of 0..65535 to 0..255 by the high byte; Pillow's own conversion would clip at 255."""
    grey = (samples.astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
    return Image.fromarray(grey, "L").convert("RGB")
