"""Decode images from untrusted bytes: decompression bombs, truncated files, HTML named .jpg."""

from __future__ import annotations

from PIL import Image

from open_diht.common.images import BadImage, BadImageReason, ImageLimits, decoding, open_image

MAX_ASPECT = 20
"""Largest aspect ratio. The ends of longer images are cropped, because resizing the shorter side would blow them up."""


class UndecodableImage(ValueError):
    """The bytes cannot be decoded; the message says why."""


def decode(content: bytes, max_pixels: int, decode_side: int | None = None) -> Image.Image:
    """Decode an image, upright, in RGB and cropped to `MAX_ASPECT`. Raises `UndecodableImage`.

    `decode_side` is the smallest side, in pixels, to which a JPEG may be reduced by a half, a quarter or an eighth.
    """
    try:
        opened = open_image(content, ImageLimits(max_pixels=max_pixels))
        image = opened.decode(at_least=None if decode_side is None else (decode_side, decode_side))
        with decoding(f"pixels of mode {image.mode}"):
            return _middle(opened.upright(image.convert("RGB")))
    except BadImage as error:
        setting = (
            "; data.max_pixels sets the limit of width x height, up to Pillow's limit"
            if error.reason is BadImageReason.TOO_MANY_PIXELS
            else ""
        )
        raise UndecodableImage(f"{error}{setting}") from error


def _middle(image: Image.Image) -> Image.Image:
    width, height = image.size
    left, top = max(0, (width - MAX_ASPECT * height) // 2), max(0, (height - MAX_ASPECT * width) // 2)
    return image.crop((left, top, width - left, height - top)) if left or top else image
