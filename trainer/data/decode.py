"""From the bytes of an image to pixels. The bytes are hostile: bombs, cut files, HTML named .jpg."""

from __future__ import annotations

from PIL import Image

from open_diht.common.images import BadImage, BadImageReason, ImageLimits, decoding, open_image

MAX_ASPECT = 20
"""Longer images lose their ends: transforms that resize the shorter side would blow up a line of pixels."""


class UndecodableImage(ValueError):
    """The bytes do not become pixels; the message says why."""


def decode(content: bytes, max_pixels: int, decode_side: int | None = None) -> Image.Image:
    """An upright RGB image.

    Args:
        content: the bytes of a file.
        max_pixels: largest accepted width x height.
        decode_side: JPEGs may be decoded at a half, a quarter or an eighth while both sides stay at or above it.

    Raises:
        UndecodableImage: they are no image, too large a one, or end too early.
    """
    try:
        opened = open_image(content, ImageLimits(max_pixels=max_pixels))
        image = opened.decode(at_least=None if decode_side is None else (decode_side, decode_side))
        with decoding(f"pixels of mode {image.mode}"):
            return _middle(opened.upright(image.convert("RGB")))
    except BadImage as error:
        setting = "; data.max_pixels sets the limit" if error.reason is BadImageReason.TOO_MANY_PIXELS else ""
        raise UndecodableImage(f"{error}{setting}") from error


def _middle(image: Image.Image) -> Image.Image:
    width, height = image.size
    left, top = max(0, (width - MAX_ASPECT * height) // 2), max(0, (height - MAX_ASPECT * width) // 2)
    return image.crop((left, top, width - left, height - top)) if left or top else image
