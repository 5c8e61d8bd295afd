"""From the bytes of a picture to pixels. The bytes are hostile: bombs, cut files, HTML named .jpg."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Formats that Pillow may try: a closed list, because it also knows some that start other programs."""
_ERRORS = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError)
"""What Pillow's format parsers raise on bytes that lie about themselves."""


MAX_ASPECT = 20
"""Longer pictures lose their ends: transforms that resize the shorter side would blow up a line of pixels."""


class BadPicture(ValueError):
    """The bytes do not become pixels; the message says why."""


def decode(content: bytes, max_pixels: int, decode_side: int | None = None) -> Image.Image:
    """An upright RGB picture.

    Args:
        content: the bytes of a file.
        max_pixels: largest accepted width x height.
        decode_side: JPEGs may be decoded at a half, a quarter or an eighth while both sides stay at or above it.

    Raises:
        BadPicture: they are no picture, too large a one, or end too early.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs, odd EXIF and odd palettes; the limit is ours
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
            width, height = image.size
            if width * height > max_pixels:
                raise BadPicture(f"{width} x {height} pixels, more than data.max_pixels {max_pixels:,}")
            if decode_side is not None and image.format == "JPEG":
                image.draft("RGB", (decode_side, decode_side))
            image.load()
            return _middle(ImageOps.exif_transpose(image).convert("RGB"))
        except BadPicture:
            raise
        except Image.DecompressionBombError as error:
            raise BadPicture(str(error)) from error
        except _ERRORS as error:
            raise BadPicture(f"{type(error).__name__}: {error}") from error


def _middle(image: Image.Image) -> Image.Image:
    width, height = image.size
    left, top = max(0, (width - MAX_ASPECT * height) // 2), max(0, (height - MAX_ASPECT * width) // 2)
    return image.crop((left, top, width - left, height - top)) if left or top else image
