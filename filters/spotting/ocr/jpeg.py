"""Decode JPEGs with OpenCV. It takes half of Pillow's time, because it writes blue, green and red
without two conversions.

Both use libjpeg-turbo and give the same pixels. OpenCV does not report damage, so only files
that have JPEG's end marker are decoded here (`decode.decode_image`).
"""

from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np

from open_diht.filters.spotting.decode import Pixels

_FLAGS: Final[Mapping[int, int]] = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_jpeg(data: bytes, scale: int) -> Pixels | None:
    """Decode a JPEG to uint8 (height, width, 3), blue green red, with its sides divided by `scale`
    (1, 2, 4 or 8) and rounded up. Return None if OpenCV cannot decode it (see
    `decode.JpegDecoder`)."""
    try:
        return cv2.imdecode(
            np.frombuffer(data, np.uint8), _FLAGS[scale] | cv2.IMREAD_IGNORE_ORIENTATION
        )  # type: ignore[return-value]
    except cv2.error:  # OpenCV's limit of pixels may be below that of `ImageLimits`
        return None
