"""Words whose letters stand one below the other, as on shop signs: the detector takes them for many short lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from filters.spotting.settings import Spotted

_LEAST_LETTERS: Final = 4
# By the width of the wider of two parts:
_MOST_SHIFT: Final = 0.5
_LEAST_GAP, _MOST_GAP = -0.3, 1.5
_LEAST_WIDTH: Final = 0.3
_LEAST_HEIGHT: Final = 0.6
"""By the width of a part itself: wider ones are lines of their own."""


@dataclass(frozen=True)
class _Part:
    line: Spotted
    left: float
    right: float
    top: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left


def read_columns(lines: Sequence[Spotted]) -> list[Spotted]:
    """What the short lines of an image say together, column by column: text from top to bottom, the mean score, and
    the upright box around it. The lines themselves are not among them."""
    parts = sorted((part for line in lines if (part := _part(line))), key=lambda part: (part.top, part.left))
    columns: list[list[_Part]] = []
    for part in parts:
        column = next((column for column in columns if _follows(column[-1], part)), None)
        if column is None:
            columns.append([part])
        else:
            column.append(part)
    return [_joined(column) for column in columns if len(column) > 1 and _letters(column) >= _LEAST_LETTERS]


def _part(line: Spotted) -> _Part | None:
    across, down = zip(*line.box, strict=True)
    part = _Part(line, min(across), max(across), min(down), max(down))
    return part if part.bottom - part.top >= _LEAST_HEIGHT * part.width > 0 else None


def _follows(above: _Part, below: _Part) -> bool:
    wide, narrow = max(above.width, below.width), min(above.width, below.width)
    shift = abs(above.left + above.right - below.left - below.right) / 2
    gap = below.top - above.bottom
    return (
        shift <= _MOST_SHIFT * wide and _LEAST_GAP * wide <= gap <= _MOST_GAP * wide and narrow >= _LEAST_WIDTH * wide
    )


def _letters(column: Sequence[_Part]) -> int:
    return sum(sum(map(str.isalnum, part.line.text)) for part in column)


def _joined(column: Sequence[_Part]) -> Spotted:
    left, right = min(part.left for part in column), max(part.right for part in column)
    top, bottom = column[0].top, max(part.bottom for part in column)
    return Spotted(
        text="".join(part.line.text.strip() for part in column),
        score=sum(part.line.score for part in column) / len(column),
        box=((left, top), (right, top), (right, bottom), (left, bottom)),
    )
