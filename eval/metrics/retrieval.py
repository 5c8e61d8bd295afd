"""Ranks of the right result in cross-modal retrieval, tile by tile, with a fixed rule for ties.

The rank of a positive is the number of items with a higher score plus the number of equal-score
items with a lower index; for image to text it is the minimum over the image's captions. If all
images have equally many captions, a model that maps everything to one vector thus gets an R@1 of
chance, up to rounding of the scores; `topk` would give anything up to 100 %. `strict` counts every
wrong item of equal score as ahead.

A positive's score is read from the same tile of scores as its competitors'. Computed separately,
the same dot product can differ in the last bits, and the comparison would be noise.
"""

from collections.abc import Sequence

import numpy as np
import torch

from open_diht.eval.metrics import BLOCK_ROWS, Rows, tiles

PART = 1 << 18
"""Most scores compared at once, for a few MiB of intermediate results. The scores of one query are
never divided."""


def image_to_text_ranks(
    images: Rows,
    captions: Rows,
    image_of: np.ndarray,
    *,
    strict: bool = False,
    part: Sequence[range] | None = None,
) -> np.ndarray:
    """Return the 0-based rank of each image's best caption among all captions. `strict` puts all
    wrong captions of equal score ahead. `part` lists the blocks of images to evaluate, such as
    those of one process; None stands for all. Raises ValueError if an image has no caption."""
    order = np.argsort(image_of, kind="stable")
    # The start of each image's captions in that order.
    starts = np.searchsorted(image_of[order], np.arange(images.count + 1))
    if bool((np.diff(starts) == 0).any()):
        raise ValueError(f"image {int(np.argmin(np.diff(starts)))} has no caption to find")
    blocks = tiles(images.count, captions.count) if part is None else part
    tile = _Tile(blocks, images, captions)
    ranks = np.empty(sum(map(len, blocks)), dtype=np.int64)
    filled = 0
    for block in blocks:
        scores = tile.scores(block)
        # The positives of the block as a flat list, image by image and by index within each.
        flat = torch.from_numpy(order[starts[block.start] : starts[block.stop]])
        lengths = torch.from_numpy(np.diff(starts[block.start : block.stop + 1]))
        row = torch.repeat_interleave(torch.arange(len(block)), lengths)
        own = scores[row, flat]
        # Find the lowest index among an image's best captions, and how many of its captions tie for
        # best.
        best = torch.full((len(block),), -torch.inf).scatter_reduce(0, row, own, "amax")
        winner = torch.where(own == best[row], flat, captions.count)
        first = torch.full((len(block),), captions.count).scatter_reduce(0, row, winner, "amin")
        right = torch.zeros(len(block), dtype=torch.int64).scatter_add(
            0, row, (own == best[row]).long()
        )
        ranks[filled : filled + len(block)] = _ahead(scores, best, right if strict else None, first)
        filled += len(block)
    return ranks


def text_to_image_ranks(
    images: Rows,
    captions: Rows,
    image_of: np.ndarray,
    *,
    strict: bool = False,
    part: Sequence[range] | None = None,
) -> np.ndarray:
    """Return the 0-based rank of each caption's image among all images, with options as in
    `image_to_text_ranks`."""
    blocks = tiles(captions.count, images.count) if part is None else part
    tile = _Tile(blocks, captions, images)
    ranks = np.empty(sum(map(len, blocks)), dtype=np.int64)
    filled = 0
    for block in blocks:
        scores = tile.scores(block)
        right = torch.from_numpy(image_of[block.start : block.stop]).long()
        own = scores.gather(1, right[:, None])[:, 0]
        ranks[filled : filled + len(block)] = _ahead(
            scores, own, torch.ones_like(right) if strict else None, right
        )
        filled += len(block)
    return ranks


def _ahead(
    scores: torch.Tensor, own: torch.Tensor, right: torch.Tensor | None, first: torch.Tensor
) -> torch.Tensor:
    """Return (b,) how many scores of each row (b, n) beat `own` (b,): the higher ones, and equal
    ones at an index below `first` (b,). If `right` (b,), the number of the query's right items that
    score `own`, is given, all other equal scores beat it too."""
    ahead = torch.empty(len(scores), dtype=torch.int64)
    index = torch.arange(scores.shape[1], dtype=torch.int32)
    # Compare in parts, because intermediate results are larger than the scores.
    size = max(1, PART // scores.shape[1])
    for start in range(0, len(scores), size):
        rows = slice(start, start + size)
        part = scores[rows]
        limit = own[rows, None]
        equal = part == limit
        if right is None:
            equal &= index < first[rows, None]
        ahead[rows] = (part > limit).sum(dim=1) + equal.sum(dim=1)
    # `equal` included the query's own right items.
    return ahead if right is None else ahead - right


class _Tile:
    """Reusable memory for one tile of scores and its inputs. Allocating it for every block, between
    results that stay, fragments the heap to many times its size."""

    def __init__(self, blocks: Sequence[range], queries: Rows, items: Rows):
        most = max(map(len, blocks), default=0)
        self._queries = queries
        self._items = items
        self._memory = torch.empty((most, items.count))
        self._left = torch.empty((most, queries.width))
        # Blocks of one shape: products of equal vectors differ in the last bits between shapes.
        count = max(1, -(-items.count // BLOCK_ROWS))
        size = min((-(-items.count // count) + 63) & ~63, items.count)
        self._right = torch.empty((size, items.width))

    def scores(self, block: range) -> torch.Tensor:
        """Return (len(block), items) float32 scores of the block's queries against all items."""
        scores = self._memory[: len(block)]
        left = self._left[: len(block)]
        self._queries.rows(block.start, block.stop, left.numpy())
        size = len(self._right)
        for first in range(0, self._items.count, size):
            stop = min(first + size, self._items.count)
            start = stop - size  # the last block overlaps the one before
            self._items.rows(start, stop, self._right.numpy())
            torch.mm(left, self._right.T, out=scores[:, start:stop])
        return scores


def hits(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return (n,) 1.0 if the right result is among the first k by 0-based ranks, and 0.0 if not.
    The mean is R@k."""
    return (ranks < k).astype(np.float64)
