"""An image as a small JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

from PIL import Image

from open_diht.filters.spotting.decode import DecodeLimits, UnreadableImage, decode_image

SIDE = 360
"""Longest side of a thumbnail in pixels."""
_QUALITY = 80
_LIMITS = DecodeLimits(decode_side=2 * SIDE, max_pixels=12_000_000)
_JPEG_LIMITS = replace(_LIMITS, max_pixels=50_000_000)
"""The driver decodes these in its own memory: up to 25 bytes a pixel, of a JPEG, which is reduced while it is decoded,
up to 6. So a hostile image costs at most 300 MB."""
_JPEG = b"\xff\xd8\xff"


class ImageNotShown(Exception):
    """Why there is no thumbnail."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG of an image."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int


def shrink(data: bytes) -> Thumbnail:
    """Return the thumbnail of an image as it is stored. Raises `ImageNotShown` with the reason."""
    try:
        # It refuses bombs and truncated files, and its messages say what was found.
        decoded = decode_image(data, _JPEG_LIMITS if data.startswith(_JPEG) else _LIMITS)
    except UnreadableImage as bad:
        raise ImageNotShown(str(bad)) from bad
    image = Image.fromarray(decoded.pixels[:, :, ::-1])
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return Thumbnail(buffer.getvalue(), image.width, image.height, decoded.width, decoded.height)
