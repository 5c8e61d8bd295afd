"""Metrics: functions of vectors, scores and labels that know no model. Vectors are read in
blocks."""

from typing import Protocol

import numpy as np

TILE_BYTES = 16 << 20
"""Bytes of a tile of scores: the memory that scores take, however many images and captions there
are."""
BLOCK_ROWS = 2048
"""Most vectors in a block, 8 MiB for 1,024 dimensions. Smaller blocks would make products
slower."""


class Rows(Protocol):
    """(n, d) float32 vectors that are read in blocks."""

    @property
    def count(self) -> int:
        """Number n of vectors."""

    @property
    def width(self) -> int:
        """Width d of a vector."""

    def rows(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return (stop - start, d) float32, in `out` if it is given."""


class ArrayRows:
    """An array with the interface of `Rows`."""

    def __init__(self, array: np.ndarray):
        self._array = np.ascontiguousarray(array, dtype=np.float32)
        self.count, self.width = self._array.shape

    def rows(self, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows from `start` to `stop`, as in `Rows`."""
        if out is None:
            return self._array[start:stop]
        out[:] = self._array[start:stop]
        return out


def tiles(queries: int, items: int, tile_bytes: int = TILE_BYTES) -> list[range]:
    """Return blocks of 1 to BLOCK_ROWS queries whose float32 scores against all items fit into
    `tile_bytes`."""
    size = min(max(1, tile_bytes // (4 * max(items, 1))), BLOCK_ROWS)
    return [range(start, min(start + size, queries)) for start in range(0, queries, size)]
