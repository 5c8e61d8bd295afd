"""The text that was read in images, to be painted over before they are scored again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from open_diht.filters.spotting.decode import Pixels
from open_diht.filters.spotting.masking import mask_text, resized, text_area

NO_TEXT = 0
"""The digest of an image without text."""


@dataclass(frozen=True)
class ImageText:
    """Where there is text in an image."""

    boxes: Sequence[ArrayLike]
    """Polygons, each with corners (k, 2) as (x, y) in pixels of the original."""
    size: tuple[int, int]
    """Width and height of the original in pixels."""

    @property
    def digest(self) -> int:
        """Return a number of 64 bits that changes with the boxes; not `NO_TEXT`."""
        parts: list[NDArray[Any]] = [
            np.asarray(self.size, np.int64),
            *(np.asarray(box, np.float32) for box in self.boxes),
        ]
        content = b"".join(len(part).to_bytes(4) + part.tobytes() for part in parts)
        return int.from_bytes(hashlib.sha256(content).digest()[:8], signed=True) or 1

    def painted_over(self, pixels: Pixels) -> tuple[Pixels, float]:
        """Return the decoded image, (h, w, 3), without its text, and the fraction of it that text covers."""
        height, width = pixels.shape[:2]
        boxes = resized(self.boxes, self.size, (width, height))
        return mask_text(pixels, boxes), text_area(boxes, (width, height))


def text_of(records: pa.Table) -> dict[int, ImageText]:
    """Return the text of the images that have any, by ordinal, from rows of `RECORD`."""
    found = {}
    for row in records.select(["ordinal", "width", "height", "spotted"]).to_pylist():
        if row["spotted"]:
            found[row["ordinal"]] = ImageText([line["box"] for line in row["spotted"]], (row["width"], row["height"]))
    return found
