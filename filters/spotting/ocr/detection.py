"""Text detection: the input of PP-OCRv6's detector, and the interpretation of its output.

The network gives every pixel the probability to be in the core of a line of text (Liao et al.,
Real-time Scene Text Detection with Differentiable Binarization, AAAI 2020): a line is a patch of
such pixels, grown to the size of its letters.
"""

from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from open_diht.filters.spotting.settings import SpotterSettings

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Contour = npt.NDArray[np.int32]
Quad = npt.NDArray[np.int32]

STRIDE: Final = 32
"""Stride of the network: the sides of its input are multiples of it."""
# Mean and standard deviation of ImageNet's channels, as in PaddleOCR.
_MEAN: Final = np.array((0.485, 0.456, 0.406))
_DEVIATION: Final = np.array((0.229, 0.224, 0.225))
_SCALE: Final = (1 / 255 / _DEVIATION).astype(np.float32)
_SHIFT: Final = (-_MEAN / _DEVIATION).astype(np.float32)
# Noise has many contours, each of which costs time. Not measured.
_MOST_CONTOURS: Final = 3000
_LEAST_CORE, _LEAST_BOX = 3, 5  # pixels of the probability map


def detector_input(pixels: Pixels, limit_side: int) -> Floats:
    """Return the network's input: float32 (1, 3, height, width), normalized, with sides that are
    multiples of `STRIDE`. Larger images are first reduced to `limit_side` as their longest side."""
    height, width = pixels.shape[:2]
    if height + width < 2 * STRIDE:
        right = max(0, STRIDE - width)
        below = max(0, STRIDE - height)
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_CONSTANT)  # type: ignore[assignment]
        height, width = pixels.shape[:2]
    ratio = min(1.0, limit_side / max(height, width))
    height, width = (
        max(STRIDE, round(int(side * ratio) / STRIDE) * STRIDE) for side in (height, width)
    )
    return resized_input(pixels, height, width)


def resized_input(pixels: Pixels, height: int, width: int) -> Floats:
    """Return the normalized input, float32 (1, 3, height, width), of a height and width in
    multiples of `STRIDE`."""
    resized = pixels if pixels.shape[:2] == (height, width) else cv2.resize(pixels, (width, height))
    planes = np.empty((1, 3, height, width), np.float32)
    for channel, samples in enumerate(cv2.split(resized)):
        plane = planes[0, channel]
        plane[:] = samples
        plane *= _SCALE[channel]
        plane += _SHIFT[channel]
    return planes


def common_shapes(limit_side: int) -> set[tuple[int, ...]]:
    """Return the shapes of `detector_input` for reduced images of 1:1, 4:3 and 3:2, in both
    orientations."""
    sides = [
        max(STRIDE, round(limit_side * share / STRIDE) * STRIDE) for share in (1, 3 / 4, 2 / 3)
    ]
    return {(1, 3, *pair) for side in sides for pair in ((sides[0], side), (side, sides[0]))}


def find_contours(probabilities: Floats, threshold: float) -> list[Contour]:
    """Return at most 3,000 outlines of patches of pixels with a probability above `threshold`, and
    of holes in them, each int32 (points, 1, 2)."""
    mask = (probabilities > threshold).view(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return list(contours[:_MOST_CONTOURS])  # type: ignore[arg-type]


def score_inside(probabilities: Floats, polygon: npt.NDArray[Any]) -> float:
    """Return the mean probability inside a polygon, whose corners (points, 2) are in pixels of the
    map."""
    height, width = probabilities.shape
    most = (width - 1, height - 1)
    left, top = np.clip(np.floor(polygon.min(axis=0)).astype(int), 0, most)
    right, bottom = np.clip(np.ceil(polygon.max(axis=0)).astype(int), 0, most)
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(mask, [(polygon - (left, top)).astype(np.int32)], (1,))
    return float(cv2.mean(probabilities[top : bottom + 1, left : right + 1], mask)[0])


def corners_of(points: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], float]:
    """Return the corners (4, 2) of the smallest rectangle around points, from top left, and its
    shorter side."""
    rectangle = cv2.minAreaRect(points)
    by_x = sorted(cv2.boxPoints(rectangle), key=lambda point: point[0])
    left, right = (sorted(pair, key=lambda point: point[1]) for pair in (by_x[:2], by_x[2:]))
    return np.array((left[0], right[0], right[1], left[1]), np.float32), min(rectangle[1])


def text_box(
    contour: Contour, probabilities: Floats, settings: SpotterSettings
) -> npt.NDArray[np.float32] | None:
    """Return the corners (4, 2) of a straight line in pixels of the map. Return None if it is too
    small or unlikely."""
    if min(cv2.minAreaRect(contour)[1]) < _LEAST_CORE:  # most are specks
        return None
    core, _ = corners_of(contour)
    if score_inside(probabilities, core) < settings.box_threshold:
        return None
    grown, side = corners_of(_grown(core, settings.unclip_ratio))
    return grown if side >= _LEAST_BOX else None


def in_image(
    box: npt.NDArray[np.float32], map_size: tuple[int, int], size: tuple[int, int]
) -> Quad:
    """Return corners (4, 2) in the map as whole pixels of the image, int32 (4, 2)."""
    scaled = np.rint(box.astype(np.float64) * (np.array(size) / map_size))
    return np.clip(scaled, 0, size).astype(np.int32)


def reading_order(boxes: list[Quad]) -> list[int]:
    """Return the indices of boxes from top to bottom; neighbors in this order that start less than
    ten pixels apart in height go from left to right."""
    order = sorted(range(len(boxes)), key=lambda index: (boxes[index][0][1], boxes[index][0][0]))
    for end in range(1, len(order)):
        place = end
        while place:
            before = boxes[order[place - 1]][0]
            after = boxes[order[place]][0]
            if abs(after[1] - before[1]) >= 10 or after[0] >= before[0]:
                break
            order[place - 1], order[place] = order[place], order[place - 1]
            place -= 1
    return order


def _grown(core: npt.NDArray[np.float32], ratio: float) -> npt.NDArray[np.float32]:
    """Return the ends (8, 2) of a quadrilateral's edges, each moved outwards by area x ratio /
    perimeter."""
    # The offset of Liao et al. (2020).
    distance = cv2.contourArea(core) * ratio / cv2.arcLength(core, True)
    starts = np.trunc(core).astype(np.float64)
    ends = np.roll(starts, -1, axis=0)
    along = ends - starts
    outwards = np.stack((along[:, 1], -along[:, 0]), axis=1)  # the corners are in clockwise order
    outwards *= distance / np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    return np.rint(np.concatenate((starts + outwards, ends + outwards))).astype(np.float32)
