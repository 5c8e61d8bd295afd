"""HN-NCE by row tiles on a GPU, with Triton kernels that read each tile of logits once.

Matrix products are torch's, and the formulas are those of `chunked`. The kernels compute masks from
columns and hashes, and write the gradient in place, so the only tensor of a tile's size is the tile
itself. Triton's interpreter (TRITON_INTERPRET=1 when this module is imported) runs the kernels on a
CPU, slowly, which the tests use.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from open_diht.trainer.losses.chunked import Tile, hn_nce_rows_chunked, tile_rows
from open_diht.trainer.losses.rows import RowLosses

TILE_ELEMENTS = 32 * 2**20
"""Default size of a tile in elements: 128 MiB of float32. A GPU needs more rows at a time than a
CPU."""
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_NONE = tl.constexpr(-math.inf)


def hn_nce_rows_fused(
    x_bd: Tensor, y_nd: Tensor, scale: Tensor, *, chunk: int | None, **options: Any
) -> RowLosses:
    """Compute `hn_nce_rows` on a GPU, with the same arguments and result, in tiles of `chunk` rows,
    by default about 128 MiB. Also raises ValueError if the features are not on a GPU, unless Triton
    interprets the kernels.
    """
    if not x_bd.is_cuda and not _INTERPRETED:
        raise ValueError(
            f"loss.implementation is triton, but the features are on {x_bd.device.type}: set it to"
            " auto, or train on a GPU"
        )
    chunk = tile_rows(len(x_bd), len(y_nd), TILE_ELEMENTS) if chunk is None else chunk
    return hn_nce_rows_chunked(x_bd, y_nd, scale, chunk=chunk, passes=TritonPasses, **options)


class TritonPasses:
    """The passes as one kernel each."""

    @staticmethod
    def sums(tile: Tile, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        c, n = tile.s_cn.shape
        top, sum_hard, sum_weights = (tile.s_cn.new_empty(c) for _ in range(3))
        rows, columns = 4, 512  # a program reads whole rows, so few of them, in wide blocks
        with _on(tile.s_cn):
            _sums[(triton.cdiv(c, rows),)](
                tile.s_cn, *_hashes(tile), top, sum_hard, sum_weights, tile.first, c, n,
                BETA=beta, HASHES=_kinds(tile), ROWS=rows, COLUMNS=columns, num_warps=8,
            )  # fmt: skip
        return top, sum_hard, sum_weights

    @staticmethod
    def gradient(
        tile: Tile,
        beta: float,
        constant: bool,
        omega: Tensor,
        sum_hard: Tensor,
        sum_weights: Tensor,
    ) -> Tensor:
        """See `chunked.Passes`. The gradient overwrites the logits."""
        c, n = tile.s_cn.shape
        # Blocks are independent, so the shape only bounds the registers of a program.
        rows = 16
        columns = 128
        with _on(tile.s_cn):
            _gradient[(triton.cdiv(n, columns), triton.cdiv(c, rows))](
                tile.s_cn, *_hashes(tile), omega.contiguous(), sum_hard, sum_weights, tile.first, c,
                n, BETA=beta, CONSTANT=constant, HASHES=_kinds(tile), ROWS=rows, COLUMNS=columns,
                num_warps=4,
            )  # fmt: skip
        return tile.s_cn


def _on(tensor: Tensor) -> Any:
    """Return a context in which the tensor's device is the current one, on which Triton launches
    kernels."""
    return torch.cuda.device_of(tensor)


def _kinds(tile: Tile) -> int:
    """Return the number of hashes per pair. It is 0 without hashes."""
    return 0 if tile.mine is None or tile.all_of is None else tile.mine[0].numel()


def _hashes(tile: Tile) -> tuple[Tensor, Tensor]:
    """Return the hashes of rows and columns. Without hashes return any tensor, which the kernels do
    not read."""
    if tile.mine is None or tile.all_of is None:
        return tile.s_cn, tile.s_cn
    return tile.mine.contiguous(), tile.all_of.contiguous()


@triton.jit
def _negatives(logits, mine, all_of, rows, columns, first, c, n, HASHES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the logits of a block (-inf for columns that are not negatives), their addresses and a
    bounds mask."""
    inside = (rows < c)[:, None] & (columns < n)[None, :]
    places = logits + rows.to(tl.int64)[:, None] * n + columns[None, :]
    s = tl.load(places, mask=inside, other=_NONE)
    out = columns[None, :] == (first + rows)[:, None]
    for kind in tl.static_range(HASHES):
        own = tl.load(mine + rows * HASHES + kind, mask=rows < c, other=0)
        theirs = tl.load(all_of + columns * HASHES + kind, mask=columns < n, other=0)
        out = out | (own[:, None] == theirs[None, :])
    return tl.where(out, _NONE, s), places, inside


@triton.jit
def _sums(  # type: ignore[no-untyped-def]
    logits, mine, all_of, tops, sums_hard, sums_weights, first, c, n,
    BETA: tl.constexpr, HASHES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute the sums of `ROWS` rows of a tile in one pass over the columns, relative to the
    largest logit so far."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    top = tl.full([ROWS], _NONE, logits.dtype.element_ty)
    hard = tl.zeros([ROWS], logits.dtype.element_ty)
    weights = tl.zeros([ROWS], logits.dtype.element_ty)
    shift = hard
    for start in range(0, n, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        s, _, _ = _negatives(logits, mine, all_of, rows, columns, first, c, n, HASHES)
        highest = tl.maximum(top, tl.max(s, axis=1))
        shift = tl.where(highest == _NONE, 0.0, highest)  # -inf minus -inf would be NaN
        above = s - shift[:, None]
        hard = hard * tl.exp((1 + BETA) * (top - shift)) + tl.sum(
            tl.exp((1 + BETA) * above), axis=1
        )
        if BETA > 0:
            weights = weights * tl.exp(BETA * (top - shift)) + tl.sum(tl.exp(BETA * above), axis=1)
        top = highest
    tl.store(tops + rows, top, mask=rows < c)
    tl.store(sums_hard + rows, tl.log(hard) + (1 + BETA) * shift, mask=rows < c)
    if BETA > 0:
        tl.store(sums_weights + rows, tl.log(weights) + BETA * shift, mask=rows < c)


@triton.jit
def _gradient(  # type: ignore[no-untyped-def]
    logits, mine, all_of, omegas, sums_hard, sums_weights, first, c, n,
    BETA: tl.constexpr, CONSTANT: tl.constexpr, HASHES: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of a block of a tile, in place."""
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    s, places, inside = _negatives(logits, mine, all_of, rows, columns, first, c, n, HASHES)
    omega = tl.load(omegas + rows, mask=rows < c, other=0.0)[:, None]
    sum_hard = tl.load(sums_hard + rows, mask=rows < c, other=0.0)[:, None]
    gradient = omega * tl.exp((1 + BETA) * s - sum_hard)
    if not CONSTANT:
        gradient = gradient * (1 + BETA)
        if BETA > 0:
            sum_weights = tl.load(sums_weights + rows, mask=rows < c, other=0.0)[:, None]
            gradient = gradient - omega * BETA * tl.exp(BETA * s - sum_weights)
    positive = columns[None, :] == (first + rows)[:, None]
    tl.store(places, tl.where(positive, -omega, gradient), mask=inside)
