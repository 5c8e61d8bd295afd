"""Open untrusted images in bounded time and memory.

Images on the web include decompression bombs, truncated downloads, HTML error pages and animations.
`open_image` looks at the content only: file names and declared types are ignored. Decoding a
returned image and composing it on white takes at most 36 bytes per pixel, and time proportional to
pixels x scans, both of which are limited. All other input raises BadImage with a reason, when it is
opened or decoded.
"""

import io
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from open_diht.common.image_formats import FORMATS
from open_diht.common.image_parts import MAX_SCANNED, WALKS, BadImage, BadImageReason, ImageParts

__all__ = [
    "FORMATS",
    "BadImage",
    "BadImageReason",
    "ImageLimits",
    "OpenedImage",
    "decoding",
    "open_image",
    "to_rgb",
]

_SIGNATURES: Final = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "WEBP": (b"RIFF",),
    "BMP": (b"BM",),
    "PPM": (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
}
_OTHERS: Final = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF",
    b"\0\0\1\0": "ICO",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "PSD",
    b"DDS ": "DDS",
    b"icns": "ICNS",
    b"%!PS": "EPS",
}
"""Image formats that are recognized but not accepted, for the error message."""
_ALPHA_MODES: Final = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
_TRANSPOSITIONS: Final = {  # EXIF orientation -> transposition that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Limits on the size of an image."""

    max_bytes: int = 64 * 2**20
    """Longest accepted file, in bytes."""
    max_pixels: int = 100_000_000
    """Largest accepted width x height in the header, checked before decoding. 100 million are 300
    MB of RGB bytes."""
    max_side: int = 30_000
    """Longest accepted side in the header, in pixels."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_side"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{type(self).__name__}.{name} is {getattr(self, name)}; it must be at least 1"
                )


@dataclass(frozen=True)
class OpenedImage:
    """An image whose header is read and within the limits. Its pixels are not decoded yet."""

    image: Image.Image
    """The image as opened by Pillow, or the first frame of an animation."""
    orientation: int
    """EXIF orientation, 1 to 8."""
    data: bytes
    """The bytes that are decoded, see `ImageParts`."""

    def decode(self, at_least: tuple[int, int] | None = None) -> Image.Image:
        """Decode the pixels, in the mode of the file. A JPEG is decoded at a half, a quarter or an
        eighth if its sides stay `at_least` (width, height), which saves most of the time. Raise
        BadImage if the pixel data is truncated or contradicts the format."""
        with decoding(f"{self.image.format} of {self.image.width} x {self.image.height}"):
            if at_least is not None and self.image.format == "JPEG":
                self.image.draft(None, at_least)
            self.image.load()
        return self.image

    def upright(self, decoded: Image.Image) -> Image.Image:
        """Return an image made from `decode`'s result, transposed according to the EXIF
        orientation."""
        turn = _TRANSPOSITIONS.get(self.orientation)
        return decoded if turn is None else decoded.transpose(turn)


def open_image(data: bytes, limits: ImageLimits, formats: Collection[str] = FORMATS) -> OpenedImage:
    """Open an image file of an accepted format. PPM may be added if the bytes are the user's own.
    Raises BadImage if the bytes are not an accepted image, and no other exception but MemoryError,
    which says nothing about the bytes.
    """
    if not data:
        raise BadImage(BadImageReason.EMPTY, "0 bytes; the file is empty")
    if len(data) > limits.max_bytes:
        raise BadImage(
            BadImageReason.TOO_MANY_BYTES,
            f"{len(data):,} bytes; at most {limits.max_bytes:,} are accepted",
        )
    form = _format(data, formats)
    parts = WALKS[form](data) if form in WALKS else ImageParts(data, None)
    if parts.size is not None:  # before Pillow opens it and may allocate memory
        _check(parts.size, parts.scans, limits)
    with decoding(f"{len(data):,} bytes that start like {form}"):
        image = Image.open(io.BytesIO(parts.data), formats=(form,))
    _check(image.size, parts.scans, limits)
    return OpenedImage(image, parts.orientation, parts.data)


def _format(data: bytes, formats: Collection[str]) -> str:
    """Return Pillow's name of the format. Raises BadImage for a format that is not accepted."""
    for form in formats:
        if data.startswith(_SIGNATURES[form]) and (form != "WEBP" or data[8:12] == b"WEBP"):
            return form
    accepted = ", ".join(formats)
    other = next((name for start, name in _OTHERS.items() if data.startswith(start)), None)
    if data[4:8] == b"ftyp":
        other = f"ISO media of brand {data[8:12]!r}, such as AVIF and HEIF"
    if other:
        raise BadImage(
            BadImageReason.NOT_AN_IMAGE,
            f"{other}, which is not accepted; convert it to one of {accepted}",
        )
    raise BadImage(
        BadImageReason.NOT_AN_IMAGE,
        f"{len(data):,} bytes in no accepted format ({accepted}), starting with {data[:24]!r}",
    )


def _check(size: tuple[int, int], scans: int, limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadImage(BadImageReason.CORRUPT, f"the header says {width} x {height} pixels")
    if width * height > limits.max_pixels or max(size) > limits.max_side:
        raise BadImage(
            BadImageReason.TOO_MANY_PIXELS,
            f"the header says {width} x {height} pixels; at most {limits.max_pixels:,} and"
            f" {limits.max_side:,} a side are accepted",
        )
    if scans * width * height > MAX_SCANNED:
        raise BadImage(
            BadImageReason.TOO_COMPLEX,
            f"{scans} scans of {width} x {height} pixels; at most {MAX_SCANNED:,} pixels are"
            " decoded in all scans",
        )


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn everything except MemoryError that Pillow raises in the block into BadImage, and
    suppress its warnings. Pillow's parsers are plain Python, so corrupt bytes can raise any Python
    error. This uses `warnings.catch_warnings`, which is not thread-safe: with several threads a
    warning may be shown, or filters may stay changed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage(BadImageReason.CORRUPT, f"{what} have no readable header") from error
    except Image.DecompressionBombError as error:
        raise BadImage(BadImageReason.TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:
        raise BadImage(
            _kind_of_damage(error), f"{what}: {type(error).__name__}: {error}"
        ) from error


def _kind_of_damage(error: Exception) -> BadImageReason:
    """Return the reason for an error. Pillow's OSError for truncated and for corrupt data differs
    only in the message."""
    text = str(error).lower()
    ended = isinstance(error, EOFError) or any(
        word in text for word in ("truncated", "not enough", "unexpected end", "premature")
    )
    return BadImageReason.TRUNCATED if ended else BadImageReason.CORRUPT


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of `OpenedImage.decode` in RGB. Transparency is composed on white, except in
    16-bit grey. CMYK (also Adobe's inverted one) becomes RGB, and 16-bit samples are scaled, not
    clipped."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        samples = np.asarray(image)
        if "transparency" in image.info:  # of a PNG: the one value that is transparent
            samples = np.where(samples == image.info["transparency"], 65535, samples)
        # Reduce 0..65535 to 0..255 by the high byte; Pillow's own conversion would clip at 255.
        grey = (samples.astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return Image.fromarray(grey, "L").convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    # Pillow assumes Adobe's inverted samples in every CMYK JPEG; without Adobe's marker they are
    # plain.
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        image = Image.fromarray(255 - np.asarray(image), "CMYK")
    # convert() would copy even if nothing changes.
    return image if image.mode == "RGB" else image.convert("RGB")
