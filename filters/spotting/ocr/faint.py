"""A second, closer look where the detector half sees text.

Small, curved and stylized letters leave pixels in the detector's map that are too few or too
unlikely for a line, and of small print often only a part is found. The part of an image around such
places is enlarged and searched again, at less cost than enlarging whole images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from open_diht.filters.spotting.ocr.arcs import Arc
from open_diht.filters.spotting.ocr.detection import STRIDE, Floats, Quad
from open_diht.filters.spotting.settings import SpotterSettings

Found = tuple[Quad, Arc | None]
"""A line that was found: its corners in pixels of the image, and its arc if it is bent."""

# Counts, heights and margins are in pixels of the detector's map. They were chosen on 500 texts and
# 74 photographs without text, by recall and the cost of a mix of both. One look has recall 0.764 at
# cost 1, these values 0.792 at 1.21.
_FAINT: Final = 0.1
"""Faint pixels have a higher probability."""
_LEAST_FAINT: Final = 10
"""Fewer faint pixels are mostly noise of the map, and a second look at noise costs as much as one
at text."""
_THIN: Final = 20
"""A line of less height is searched again, because parts of it may be missing. 12 has recall 0.784
at cost 1.16, and 26 finds no more, at 1.25."""
_MARGIN: Final = 16
"""Context around the places. More context gains recall too, but less for its cost than the look at
thin lines."""
_WIDE_MARGIN: Final = 48
"""Context for another detector, which also finds lines around the places. Of 127 words of street
text that are legible at 512 pixels it finds 101 with this, and 93 with a margin of 16
(benchmarks/small_text.py, images 1 to 100)."""
_LEAST_ENLARGEMENT: Final = 1.2
"""A smaller enlargement would show the detector nearly what it has seen."""
_WHOLE: Final = 0.7
"""A line with less than this fraction of another line's area, at the same place, is a piece of that
line. Two looks at a whole line differ by a few pixels at its rim; pieces that replaced lines were
most of what a second look lost."""


@dataclass(frozen=True)
class Region:
    """A part of an image to search again."""

    box: tuple[int, int, int, int]
    """Left, top, right, bottom, in pixels of the image."""
    height: int
    """Height of the detector's input; a multiple of STRIDE, like `width`."""
    width: int


def faint_region(
    probabilities: Floats, shape: tuple[int, ...], boxes: Sequence[Quad], settings: SpotterSettings
) -> Region | None:
    """Return the part of an image to search again: the one that has thin lines, or at least ten
    faint pixels outside the boxes of all lines. Return None without such a part, or if the detector
    could hardly read it larger than before.

    Args:
        shape: height and width of the image, then any other axes.
    """
    size = probabilities.shape[1::-1]
    scale = np.array(shape[1::-1]) / size
    on_map = [np.rint(box / scale).astype(np.int32) for box in boxes]
    mask = (probabilities > _FAINT).view(np.uint8)
    for box in on_map:
        cv2.fillConvexPoly(mask, box, (0,))
    if cv2.countNonZero(mask) < _LEAST_FAINT:
        mask[:] = 0
    for box in on_map:
        if min(cv2.minAreaRect(box)[1]) < _THIN:
            cv2.fillConvexPoly(mask, box, (1,))
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return None
    margin = _WIDE_MARGIN if settings.closer_look else _MARGIN
    start = np.maximum((left - margin, top - margin), 0)
    stop = np.minimum((left + width + margin, top + height + margin), size)
    sides = (stop - start).tolist()
    enlargement = min(settings.enlarge_faint, settings.limit_side / max(sides))
    if enlargement < _LEAST_ENLARGEMENT and not (
        settings.closer_look and settings.enlarge_faint > 1
    ):
        return None
    across, down = (max(STRIDE, round(side * enlargement / STRIDE) * STRIDE) for side in sides)
    (left, top), (right, bottom) = (
        np.floor(start * scale).astype(int),
        np.ceil(stop * scale).astype(int),
    )
    return Region((int(left), int(top), int(right), int(bottom)), height=down, width=across)


def merge(first: Sequence[Found], closer: Sequence[Found]) -> list[Found]:
    """Return the lines of two looks. For a line found twice, the closer look counts unless it has
    only a piece."""
    kept = [
        line
        for line in first
        if not any(_within(line, other) and not _piece(other, line) for other in closer)
    ]
    return kept + [line for line in closer if not any(_within(line, other) for other in kept)]


def moved(line: Found, left: int, top: int) -> Found:
    """Return a line found in a part of an image, moved to its place in the whole image."""
    box, arc = line
    x, y = arc.center if arc else (0.0, 0.0)
    return box + np.array((left, top), np.int32), arc and replace(arc, center=(x + left, y + top))


def _within(line: Found, other: Found) -> bool:
    """Return whether the middle of a line lies in another one."""
    x, y = map(float, line[0].mean(axis=0))
    return cv2.pointPolygonTest(other[0], (x, y), False) >= 0


def _piece(line: Found, other: Found) -> bool:
    return cv2.contourArea(line[0]) < _WHOLE * cv2.contourArea(other[0])
