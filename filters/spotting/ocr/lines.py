"""Cut lines of text out of an image, as strips of the height that the recognizer reads."""

import math
from typing import Final

import cv2
import numpy as np

from open_diht.filters.spotting.ocr.detection import Pixels, Quad, corners_of

HEIGHT: Final = 48
"""Height of a strip, in pixels."""
# It bounds the memory of a line: 67 times as wide as high.
MAX_WIDTH: Final = 3200
_TALL: Final = 1.5
"""A box whose height is at least this multiple of its width is taken to hold turned text."""
_ALIGNED: Final = 0.01
"""A box is cut along rows and columns if its sides lean by fewer pixels than this."""
_TURNED_HEIGHT: Final = 2 * HEIGHT
"""Greatest height, in pixels, at which a leaning line is straightened: a strip shows less, and
straightening is slow. Boxes of hundreds of pixels are seldom text."""


def cut_line(pixels: Pixels, box: Quad) -> tuple[Pixels, bool]:
    """Return the part of an image inside a box, and whether it was turned because it is tall. A
    large box that leans is reduced. A tall part is turned by a quarter counter-clockwise, which
    suits text that reads downwards. The part may be empty."""
    corners, _ = corners_of(box)
    left_top, right_top, right_bottom, left_bottom = corners
    width = int(
        max(np.linalg.norm(left_top - right_top), np.linalg.norm(right_bottom - left_bottom))
    )
    height = int(
        max(np.linalg.norm(left_top - left_bottom), np.linalg.norm(right_top - right_bottom))
    )
    if not width or not height:
        return np.empty((0, 0, 3), np.uint8), False
    if np.abs(corners[[0, 1]] - corners[[3, 2]])[:, 0].max() < _ALIGNED:  # nothing leans
        left, top = np.rint(left_top).astype(int)
        crop = pixels[top : top + height, left : left + width]
        return _standing(crop)
    line_height = width if height >= _TALL * width else height
    reduction = max(1.0, line_height / _TURNED_HEIGHT)
    width, height = round(width / reduction), round(height / reduction)
    target = np.array(((0, 0), (width, 0), (width, height), (0, height)), np.float32)
    warped = cv2.warpPerspective(
        pixels,
        cv2.getPerspectiveTransform(corners, target),
        (width, height),
        borderMode=cv2.BORDER_REPLICATE,
        flags=cv2.INTER_CUBIC,
    )
    return _standing(warped)  # type: ignore[arg-type]


def to_strip(line: Pixels) -> Pixels:
    """Scale a cut line to uint8 (HEIGHT, width, 3), keeping its proportions up to MAX_WIDTH."""
    height, width = line.shape[:2]
    return cv2.resize(  # type: ignore[return-value]
        line,
        (min(MAX_WIDTH, math.ceil(HEIGHT * (width / height))), HEIGHT),
    )


def _standing(crop: Pixels) -> tuple[Pixels, bool]:
    tall = crop.shape[0] >= _TALL * crop.shape[1]
    return (np.rot90(crop) if tall else crop), tall  # rot90 turns counter-clockwise
