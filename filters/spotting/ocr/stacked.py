"""Words whose letters are stacked vertically, as on shop signs: laid side by side, and read as a
line.

The detector takes them for many short lines, misses some, or finds a line that was turned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from open_diht.filters.spotting.ocr.detection import Floats, Pixels, Quad

# These limits are wide on purpose. A false column costs a reading and mostly gives no word; a
# column that is missed costs the overlap.
_LEAST_PROPORTION: Final = 2.5
"""Least ratio of height to width of a column: three letters or more one above the other."""
_LEAST_LETTERS = 4
_MOST_LETTERS = 30
"""Fewer than four are found by chance wherever short lines stand above each other; longer words are
not on signs."""
# Relative to the width of the wider of two parts:
_MOST_SHIFT: Final = 0.5
_LEAST_GAP = -0.3
_MOST_GAP = 2.5
"""Boxes of neighboring letters may overlap; the detector may have missed a letter or two between
two parts."""
_LEAST_WIDTH: Final = 0.3
"""Least ratio of the widths of two neighbors: an I is a third as wide as an M."""
_LEAST_HEIGHT: Final = 0.6
"""Least ratio of a part's height to its width: wider parts are separate lines."""
# Relative to the width of the column:
_BLUR: Final = 0.06
"""Blur that joins the strokes of a letter, and leaves the gap between two letters."""
_LEAST_INK: Final = 0.15
"""Least height of a letter; lower marks are specks or dashes."""
_DOT: Final = 0.3
"""A part that is smaller than this and less than `_LEAST_INK` away from a letter belongs to it,
like the dot of an i."""
_MARGIN: Final = 0.05
"""Room around a cut letter, so that letters do not touch in the line."""


@dataclass(frozen=True)
class Column:
    """Boxes of an image whose letters may form a word."""

    parts: tuple[int, ...]
    """Indices of the boxes, from top to bottom."""
    left: int
    top: int
    right: int
    bottom: int

    @property
    def corners(self) -> Quad:
        """Return the corners, clockwise from the top left, int32 (4, 2)."""
        left = self.left
        top = self.top
        right = self.right
        bottom = self.bottom
        return np.array(((left, top), (right, top), (right, bottom), (left, bottom)), np.int32)


def find_columns(boxes: Sequence[Quad]) -> list[Column]:
    """Return the columns among the boxes (4, 2) of an image's lines."""
    rectangles = [
        Column((index,), *map(int, (*box.min(axis=0), *box.max(axis=0))))
        for index, box in enumerate(boxes)
    ]
    columns: list[list[Column]] = []
    for part in sorted(rectangles, key=lambda part: (part.top, part.left)):
        if not part.bottom - part.top >= _LEAST_HEIGHT * _width(part) > 0:
            continue
        column = next((column for column in columns if _follows(column[-1], part)), None)
        if column is None:
            columns.append([part])
        else:
            column.append(part)
    joined = [_joined(column) for column in columns]
    return [
        column
        for column in joined
        if column.bottom - column.top >= _LEAST_PROPORTION * _width(column)
    ]


def lay_out(pixels: Pixels, column: Column) -> Pixels | None:
    """Return the letters of a column as a line, uint8 (height, width, 3). Return None if they are
    too few or too many for a word. Letters are separated by rows with few edges."""
    strip = pixels[column.top : column.bottom, column.left : column.right]
    grey = cv2.cvtColor(strip, cv2.COLOR_BGR2GRAY)
    edges = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0))
    width = strip.shape[1]
    rows = cv2.blur(edges.mean(axis=1).reshape(-1, 1), (1, max(1, round(_BLUR * width))))
    spans = _letters(_runs(_above_otsu(rows)), width)
    if not _LEAST_LETTERS - 1 <= len(spans) <= _MOST_LETTERS:
        return None
    edges += np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return _side_by_side([_cut(strip, edges, start, stop) for start, stop in spans])


def says_a_word(text: str) -> bool:
    """Return whether a column's text has enough letters and digits to be a word."""
    return sum(map(str.isalnum, text)) >= _LEAST_LETTERS


def _width(part: Column) -> int:
    return part.right - part.left


def _follows(above: Column, below: Column) -> bool:
    wide = max(_width(above), _width(below))
    narrow = min(_width(above), _width(below))
    shift = abs(above.left + above.right - below.left - below.right) / 2
    gap = below.top - above.bottom
    return (
        shift <= _MOST_SHIFT * wide
        and _LEAST_GAP * wide <= gap <= _MOST_GAP * wide
        and narrow >= _LEAST_WIDTH * wide
    )


def _joined(parts: Sequence[Column]) -> Column:
    return Column(
        tuple(index for part in parts for index in part.parts),
        left=min(part.left for part in parts),
        top=parts[0].top,
        right=max(part.right for part in parts),
        bottom=max(part.bottom for part in parts),
    )


def _above_otsu(rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return the rows with more edges than 0.8 of the threshold of Otsu (1979), low enough for
    outlined letters."""
    levels = cv2.normalize(rows, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # type: ignore[call-overload]
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    return (levels > 0.8 * threshold).ravel()  # type: ignore[no-any-return]


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (start, stop) of each run of True."""
    changes = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))


def _letters(runs: Sequence[tuple[int, int]], width: int) -> list[tuple[int, int]]:
    """Merge dots into the letters that they belong to, and drop specks."""
    letters: list[tuple[int, int]] = []
    for start, stop in runs:
        if letters:
            before, end = letters[-1]
            if start - end < _LEAST_INK * width and min(stop - start, end - before) < _DOT * width:
                letters[-1] = (before, stop)
                continue
        letters.append((start, stop))
    return [(start, stop) for start, stop in letters if stop - start >= _LEAST_INK * width]


def _cut(strip: Pixels, edges: Floats, start: int, stop: int) -> Pixels:
    """Return one letter of a strip without the empty space at its sides."""
    height, width = strip.shape[:2]
    margin = max(1, round(_MARGIN * width))
    ink = edges[start:stop].mean(axis=0)
    inked = np.flatnonzero(ink >= ink.max() / 4)
    left = max(0, int(inked[0]) - margin)
    right = min(width, int(inked[-1]) + 1 + margin)
    return strip[max(0, start - margin) : min(height, stop + margin), left:right]


def _side_by_side(letters: Sequence[Pixels]) -> Pixels:
    """Return the letters in one line, vertically centered."""
    height = max(letter.shape[0] for letter in letters)
    filled = []
    for letter in letters:
        rest = height - letter.shape[0]
        above = rest // 2
        filled.append(cv2.copyMakeBorder(letter, above, rest - above, 0, 0, cv2.BORDER_REPLICATE))
    return np.hstack(filled)
