"""Thumbnails of images, as JPEG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

from numpy.typing import ArrayLike
from PIL import Image

from open_diht.filters.spotting.decode import DecodeLimits, UnreadableImage, decode_image
from open_diht.filters.spotting.masking import mask_text, resized

SIDE = 360
"""Longest side of a thumbnail in pixels."""
# Not measured: text in images must stay legible.
_QUALITY = 80
_LIMITS = DecodeLimits(decode_side=2 * SIDE, max_pixels=12_000_000)
_JPEG_LIMITS = replace(_LIMITS, max_pixels=50_000_000)
"""The driver and the server of `make view` decode thumbnails in their own memory, which takes up to
25 bytes per pixel. A JPEG is reduced while it is decoded and takes up to 6 bytes per pixel. So a
hostile image costs about 300 MB at most.
"""
_JPEG = b"\xff\xd8\xff"


class ImageNotShown(Exception):
    """The reason why there is no thumbnail."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG with its size and the size of the original image."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int


def shrink(
    data: bytes, masked: Sequence[ArrayLike] = (), size: tuple[int, int] = (1, 1)
) -> Thumbnail:
    """Return the thumbnail of a stored image, or raise ImageNotShown with the reason. `masked` has
    boxes of text to paint over, each with corners (k, 2) as (x, y) in an image of `size`."""
    try:
        # decode_image refuses decompression bombs and truncated files with a message for users.
        decoded = decode_image(data, _JPEG_LIMITS if data.startswith(_JPEG) else _LIMITS)
    except UnreadableImage as bad:
        raise ImageNotShown(str(bad)) from bad
    height, width = decoded.pixels.shape[:2]
    pixels = (
        mask_text(decoded.pixels, resized(masked, size, (width, height)))
        if masked
        else decoded.pixels
    )
    image = Image.fromarray(pixels[:, :, ::-1])  # BGR to RGB
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return Thumbnail(buffer.getvalue(), image.width, image.height, decoded.width, decoded.height)
