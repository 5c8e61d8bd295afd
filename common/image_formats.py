"""Accepted image formats, and file name endings that identify images. It imports no other module of
this package."""

from typing import Final

FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
"""The accepted formats, by Pillow's names. All browsers show them. Formats are not accepted if
their cost cannot be bounded before decoding:

- AVIF and HEIF: the header's size may differ from that of the frames inside, and a still image may
  hold any number of frames that are decoded and not shown; Pillow does not pass on the decoder's
  limits;
- TIFF: a tile may be larger than the image, tags may repeat the whole file thousands of times, and
  it embeds JPEG and WebP;
- ICO, ICNS, PSD, JPEG 2000, DDS: images in images, or tiles and layers with sizes of their own;
- EPS and other formats for which Pillow starts programs, or that have no signature.
"""
EXTENSIONS: Final = (
    "jpg",
    "jpeg",
    "png",
    "webp",
    "gif",
    "bmp",
    "tif",
    "tiff",
    "avif",
    "jp2",
    "ppm",
)
"""File name endings of images, in lower case without dot, by priority: if a sample has several,
filters and trainer take the first. The list is longer than `FORMATS`, so that images that are not
accepted are found and reported."""
