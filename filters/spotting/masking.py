"""Paint over the text in an image, and measure how much of the image it covers.

A pixel is covered by a polygon if its center lies inside it. Both functions use this one rule, so
the area is exactly the fraction of pixels that masking paints over.
"""

from collections.abc import Iterator, Sequence
from math import ceil

import numpy as np
from numpy.typing import ArrayLike, NDArray

from open_diht.filters.base import Bools

_Window = tuple[slice, slice]


def text_area(boxes: Sequence[ArrayLike], size: tuple[int, int]) -> float:
    """Return the fraction of an image's pixels that text covers, with pixels in several boxes
    counted once. Boxes are polygons, each with corners (k, 2) as (x, y) in pixels, and may reach
    beyond the image of `size` (width, height).
    """
    width, height = size
    covered = np.zeros((height, width), bool)
    for (rows, columns), inside in _covers(boxes, size):
        covered[rows, columns] |= inside
    return float(np.count_nonzero(covered)) / covered.size


def mask_text(image: NDArray[np.uint8], boxes: Sequence[ArrayLike]) -> NDArray[np.uint8]:
    """Return the image with its text painted over, in the mean of the colors around it. The image
    is (height, width) or (height, width, channels); each channel is averaged, also alpha. Boxes
    that overlap or touch are one region, and get the mean of the pixels around it, one pixel wide.
    A region without pixels around it gets the mean of the whole image. The result depends neither
    on the order of the boxes nor on their parts outside the image.
    """
    height, width = image.shape[:2]
    # A frame of one pixel around the image spares the cases at its edges. Regions are numbered from
    # 1.
    labels = np.zeros((height + 2, width + 2), np.int32)
    parents = [0]
    windows = [(slice(0), slice(0))]
    for (rows, columns), inside in _covers(boxes, (width, height)):
        number = len(parents)
        around = labels[rows.start : rows.stop + 2, columns.start : columns.stop + 2]
        parents.append(number)
        windows.append((rows, columns))
        for touching in np.unique(around[_dilated(inside)]).tolist():
            if touching:
                parents[_root(parents, touching)] = number
        around[1:-1, 1:-1][inside] = number
    roots = np.array([_root(parents, number) for number in range(len(parents))], np.int32)
    masked = image.copy()
    for root in np.unique(roots[1:]).tolist():
        members = [
            window for window, its in zip(windows, roots.tolist(), strict=True) if its == root
        ]
        first, left = (min(window[axis].start for window in members) for axis in (0, 1))
        stop, right = (max(window[axis].stop for window in members) for axis in (0, 1))
        inside = roots[labels[first + 1 : stop + 1, left + 1 : right + 1]] == root
        # The ring may leave the image by one pixel, which is cut off.
        ring = _dilated(inside)
        ring[1:-1, 1:-1] &= ~inside
        above = min(first, 1)
        before = min(left, 1)
        part = image[first - above : stop + 1, left - before : right + 1]
        ring = ring[1 - above :, 1 - before :][: part.shape[0], : part.shape[1]]
        colors = part[ring] if ring.any() else image.reshape(-1, *image.shape[2:])
        # Their mean, rounded to the nearest integer, halves up.
        total = colors.sum(axis=0, dtype=np.int64)
        masked[first:stop, left:right][inside] = (2 * total + len(colors)) // (2 * len(colors))
    return masked


def resized(
    boxes: Sequence[ArrayLike], size: tuple[int, int], to: tuple[int, int]
) -> list[NDArray[np.float64]]:
    """Return the boxes of an image of `size` (width, height) in pixels of the same image in another
    size."""
    return [np.asarray(box, np.float64).reshape(-1, 2) * np.divide(to, size) for box in boxes]


def _covers(boxes: Sequence[ArrayLike], size: tuple[int, int]) -> Iterator[tuple[_Window, Bools]]:
    """Yield the window of each polygon in the image and the mask of its pixels there, unless it has
    none."""
    for box in boxes:
        corners = np.asarray(box, np.float64).reshape(-1, 2)
        if not len(corners):
            continue
        # The pixels whose centers, at halves, lie between the outermost corners.
        left, first = (max(0, ceil(low - 0.5)) for low in corners.min(axis=0).tolist())
        right, stop = (
            min(most, ceil(high - 0.5))
            for most, high in zip(size, corners.max(axis=0).tolist(), strict=True)
        )
        if left >= right or first >= stop:
            continue
        inside = _inside(corners, np.arange(left, right) + 0.5, np.arange(first, stop) + 0.5)
        if inside.any():
            yield (slice(first, stop), slice(left, right)), inside


def _inside(
    corners: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]
) -> Bools:
    """Return which points of a grid are in a polygon, (ys, xs): those with an odd number of edges
    to their left."""
    inside = np.zeros((len(ys), len(xs)), bool)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        # So that neighbors round a shared edge alike.
        (x0, y0), (x1, y1) = sorted((start.tolist(), end.tolist()))
        rows = np.flatnonzero((y0 <= ys) != (y1 <= ys))
        if len(rows):
            crossings = x0 + (ys[rows] - y0) * (x1 - x0) / (y1 - y0)
            inside[rows] ^= crossings[:, None] <= xs
    return inside


def _dilated(inside: Bools) -> Bools:
    """Return the mask (h, w) with the eight neighbors of its pixels, (h + 2, w + 2)."""
    height, width = inside.shape
    wider = np.zeros((height, width + 2), bool)
    for shift in range(3):
        wider[:, shift : shift + width] |= inside
    dilated = np.zeros((height + 2, width + 2), bool)
    for shift in range(3):
        dilated[shift : shift + height] |= wider
    return dilated


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        number = parents[number]
    return number
