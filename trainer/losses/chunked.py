"""HN-NCE by row tiles: up to rounding the same numbers as `hn_nce_rows`, in memory O(n d) instead
of O(b n).

Forward keeps three numbers per row: sigmoid(z), S(1+beta) and S(beta), where z_i = N_i - s_ii -
log(alpha) and S, N are those of `rows`. Backward recomputes the similarities of each tile. With
omega_i = sigmoid(z_i) times the gradient of L_i,

    dL/ds_ij = omega_i [ (1+beta) e^{(1+beta) s_ij - S_i(1+beta)} - beta e^{beta s_ij - S_i(beta)} ]
    j a negative dL/ds_ij = omega_i e^{(1+beta) s_ij - S_i(1+beta)}
    w held constant dL/ds_ii = -omega_i

Matrix products are torch's. The operations between them are two passes over each tile. The passes
here read a tile once per operation and hold two tiles of chunk x n at a time; the passes of `fused`
read a tile once.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from open_diht.trainer.losses.rows import (
    RowLosses,
    check_constants,
    duplicates,
    negatives_per_row,
    require_negatives,
    row_losses,
)

TILE_ELEMENTS = 8 * 2**20
"""Default size of a tile in elements: 32 MiB of float32. Smaller tiles need less memory but more
products."""


class Tile(NamedTuple):
    """Some rows of the logits."""

    s_cn: Tensor
    """(c, n) logits, which a pass may overwrite."""
    first: int
    """Column of the positive of the first row; each next row has the next column."""
    mine: Tensor | None
    """(c,) or (c, k) hashes of the rows."""
    all_of: Tensor | None
    """(n,) or (n, k) hashes of the columns. Columns that share a hash with the row are not
    negatives."""


class Passes(Protocol):
    """The two passes over a tile."""

    @staticmethod
    def sums(tile: Tile, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the largest s_ij of each row's negatives, S(1 + beta) and S(beta), each (c,). A
        row without negatives has -inf. Logits may be overwritten. The caller does not use S(beta)
        if beta is 0."""

    @staticmethod
    def gradient(
        tile: Tile,
        beta: float,
        constant: bool,
        omega: Tensor,
        sum_hard: Tensor,
        sum_weights: Tensor,
    ) -> Tensor:
        """Return the gradient dL/ds (c, n), with the weights held constant if `constant`. Logits
        may be overwritten."""


class _Options(NamedTuple):
    alpha: float
    beta: float
    detach_weights: bool
    offset: int
    chunk: int
    passes: type[Passes]


def tile_rows(b: int, n: int, elements: int | None = None) -> int:
    """Return the number of rows of a tile: as many as have at most `elements` similarities, but at
    least 1."""
    return max(1, min(b, (elements or TILE_ELEMENTS) // max(n, 1)))


def in_tiles(compute: Callable[[slice], tuple[Tensor, ...]], b: int, n: int) -> tuple[Tensor, ...]:
    """Return the results of b rows, each (b,), computed in tiles of some rows against n columns.
    The backward pass recomputes the tiles if there are several, so that it holds one at a time."""
    size = tile_rows(b, n)
    if size >= b:  # a single tile needs no recomputation
        return compute(slice(0, b))
    tiles = [
        checkpoint(
            compute, slice(start, start + size), use_reentrant=False, preserve_rng_state=False
        )
        for start in range(0, b, size)
    ]
    return tuple(torch.cat(values) for values in zip(*tiles, strict=True))


class TorchPasses:
    """The passes as operations of torch, on any device."""

    @staticmethod
    def sums(tile: Tile, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        s = _negatives(tile)
        top = s.amax(dim=1)
        shift = top.masked_fill(top == -math.inf, 0.0)[:, None]  # -inf minus -inf would be NaN
        work = (s - shift).mul_(1 + beta).exp_()
        sum_hard = sum_weights = work.sum(dim=1).log_().add_(shift[:, 0], alpha=1 + beta)
        if beta:
            work.copy_(s).sub_(shift).mul_(beta).exp_()
            sum_weights = work.sum(dim=1).log_().add_(shift[:, 0], alpha=beta)
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
        s = _negatives(tile)
        grad_s: Tensor = (s * (1 + beta)).sub_(sum_hard[:, None]).exp_()
        grad_s.mul_((omega * (1 if constant else 1 + beta))[:, None])
        if beta and not constant:
            grad_s.sub_(
                s.mul_(beta).sub_(sum_weights[:, None]).exp_().mul_((omega * beta)[:, None])
            )
        grad_s.diagonal(tile.first)[: len(s)] = -omega  # the positives
        return grad_s


def _negatives(tile: Tile) -> Tensor:
    """Return the logits with -inf for columns that are not negatives, in place."""
    s = tile.s_cn
    s.diagonal(tile.first)[: len(s)].fill_(-math.inf)
    if tile.mine is not None and tile.all_of is not None:
        s.masked_fill_(duplicates(tile.mine, tile.all_of), -math.inf)
    return s


def hn_nce_rows_chunked(
    x_bd: Tensor,
    y_nd: Tensor,
    scale: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 0.25,
    detach_weights: bool = False,
    offset: int = 0,
    mine: Tensor | None = None,
    all_of: Tensor | None = None,
    chunk: int | None = None,
    passes: type[Passes] = TorchPasses,
) -> RowLosses:
    """Compute `hn_nce_rows` in tiles, with the same arguments and result, in memory O((b + n) d)
    and about two tiles. `passes` computes on tiles of at most `chunk` rows, by default as many as
    `tile_rows` returns. Also raises ValueError for a `chunk` below 1."""
    check_constants(alpha, beta)
    chunk = tile_rows(len(x_bd), len(y_nd)) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    options = _Options(alpha, beta, detach_weights, offset, chunk, passes)
    return RowLosses(*_ChunkedRows.apply(x_bd, y_nd, scale, mine, all_of, options))


class _ChunkedRows(torch.autograd.Function):
    """The autograd function of (loss, hit, hardest), each (b,). Only the loss is differentiable,
    and only once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        mine: Tensor | None,
        all_of: Tensor | None,
        options: _Options,
    ) -> tuple[Tensor, Tensor, Tensor]:
        b = len(x)
        n = len(y)
        beta = options.beta
        count = negatives_per_row(b, n, mine, all_of, x.device)
        require_negatives(count, options.alpha)
        empty = count == 0  # rows without negatives
        positive, top, sum_hard, sum_weights = (x.new_empty(b) for _ in range(4))
        for start in range(0, b, options.chunk):
            rows = slice(start, min(start + options.chunk, b))
            tile = _tile(x, y, scale, mine, all_of, rows, options.offset)
            positive[rows] = tile.s_cn.diagonal(tile.first)[: len(tile.s_cn)]
            top[rows], sum_hard[rows], sum_weights[rows] = options.passes.sums(tile, beta)
            del tile  # frees its memory before the next one
        negatives = sum_hard
        if beta:
            negatives = count.clamp(min=1).to(x.dtype).log() + sum_hard - sum_weights
        negatives = negatives.masked_fill(empty, -math.inf)
        loss = row_losses(positive, negatives, options.alpha)
        hardest = ((1 + beta) * top - sum_hard).exp().masked_fill(empty, 0.0)
        hit = (positive > top) | empty
        slope = torch.ones_like(loss)
        if options.alpha:
            slope = torch.sigmoid(negatives - positive - math.log(options.alpha))
        # Rows without negatives have slope 0; a finite number in place of their -inf keeps 0 * x
        # from being NaN.
        sum_hard, sum_weights = (
            values.masked_fill(empty, 0.0) for values in (sum_hard, sum_weights)
        )
        ctx.save_for_backward(x, y, scale, mine, all_of, slope, sum_hard, sum_weights)
        ctx.options = options
        ctx.mark_non_differentiable(hit, hardest)
        return loss, hit, hardest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *others: Any) -> tuple[Tensor | None, ...]:
        x, y, scale, mine, all_of, slope, sum_hard, sum_weights = ctx.saved_tensors
        options: _Options = ctx.options
        omega = grad_loss * slope
        grad_x = torch.empty_like(x)
        grad_y = torch.zeros_like(y)
        grad_scale = torch.zeros((), dtype=torch.float64, device=x.device)
        for start in range(0, len(x), options.chunk):
            rows = slice(start, min(start + options.chunk, len(x)))
            tile = _tile(x, y, scale, mine, all_of, rows, options.offset)
            of_rows = (omega[rows], sum_hard[rows], sum_weights[rows])
            grad_s = options.passes.gradient(tile, options.beta, options.detach_weights, *of_rows)
            pulled = grad_s @ y
            grad_scale += (x[rows] * pulled).sum(dtype=torch.float64)  # = sum_ij ds_ij cos_ij
            grad_x[rows] = pulled.mul_(scale)
            grad_y.addmm_(grad_s.T, x[rows])
            del tile, grad_s
        return (
            grad_x,
            grad_y.mul_(scale),
            grad_scale.to(scale.dtype).reshape(scale.shape),
            None,
            None,
            None,
        )


def _tile(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    mine: Tensor | None,
    all_of: Tensor | None,
    rows: slice,
    offset: int,
) -> Tile:
    return Tile(
        (scale * x[rows]) @ y.T, offset + rows.start, None if mine is None else mine[rows], all_of
    )
