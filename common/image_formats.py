"""Which images are accepted, and by which names files are taken for images. Imports nothing."""

from __future__ import annotations

from typing import Final

FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
"""The formats that are accepted, by Pillow's names: those that every browser shows, so those that the web has. Not
accepted are formats whose cost cannot be bounded before they are decoded:

- AVIF and HEIF: the size in the header need not be that of the frames inside, and one still image may hold any number
  of frames that are decoded and not shown; Pillow hands on none of the decoder's limits;
- TIFF: a tile may be larger than the image, tags may repeat the whole file thousands of times, and it embeds JPEG and
  WebP;
- ICO, ICNS, PSD, JPEG 2000, DDS: images in images, or tiles and layers of sizes of their own;
- EPS and others that Pillow starts programs for, or that have no signature.
"""
EXTENSIONS: Final = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm")
"""Names that say that a file is an image, without dot, in lower case; where a sample has several, the first of these.
More than `FORMATS`: an image that is not accepted must be met to be reported."""
