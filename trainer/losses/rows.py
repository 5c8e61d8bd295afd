"""HN-NCE for the rows of a similarity matrix: InfoNCE in which hard negatives weigh more (paper,
section 3.3).

For row i with logits s_ij, positive s_ii and n-1 negatives

    L_i = -log[ e^{s_ii} / (alpha e^{s_ii} + sum_{j != i} w_ij e^{s_ij}) ],   w_ij = (n-1) e^{beta
    s_ij} / sum_{k != i} e^{beta s_ik}

With S_i(c) = log sum_{j != i} e^{c s_ij} the weighted sum is N_i = log(n-1) + S_i(1+beta) -
S_i(beta), and

    L_i = log alpha + softplus(N_i - s_ii - log alpha)        (alpha = 0: L_i = N_i - s_ii)

With two masked log-sum-exps and one softplus no exponential overflows, and easy pairs keep their
precision, while logaddexp(log alpha + s_ii, N_i) - s_ii, or cross_entropy, would cancel to 0. alpha
= 1, beta = 0 is InfoNCE.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

# 2^64 over the golden ratio, so that products mod 2^64 stay well spread.
_ODD = -7046029254386353131


class RowLosses(NamedTuple):
    """The losses of the b rows of this rank, in one direction."""

    loss: Tensor
    """(b,) loss of each row, differentiable."""
    hit: Tensor
    """(b,) bool: the positive is more similar than every negative, if there are any; ties are
    misses."""
    hardest: Tensor
    """(b,) fraction of the weighted sum that is due to the hardest negative. A row without
    negatives has 0."""


def check_constants(alpha: float, beta: float) -> None:
    """Raise ValueError unless 0 <= alpha <= 1 and 0 <= beta < inf."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1")
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta is {beta}; it must be at least 0 and finite")


def duplicates(mine: Tensor, all_of: Tensor) -> Tensor:
    """Find the columns that must not be negatives of a row: those that share a hash with it.

    Args:
        mine: (b, k) int64 hashes of the rows, or (b,).
        all_of: (n, k) int64 hashes of the columns, or (n,).

    Returns:
        (b, n) bool. A row is a duplicate of itself.
    """
    same = None
    for row, column in zip(_by_kind(mine), _by_kind(all_of), strict=True):
        equal = row[:, None] == column[None, :]
        same = equal if same is None else same.logical_or_(equal)
    assert same is not None
    return same


def negatives_per_row(
    b: int, n: int, mine: Tensor | None, all_of: Tensor | None, device: torch.device
) -> Tensor:
    """Count the negatives of each row, (b,): n - 1, minus the duplicates of the row's own sample.
    Duplicates by several hashes are counted by inclusion and exclusion, in memory O(n). Without
    hashes there are no duplicates.
    """
    if mine is None or all_of is None:
        return torch.full((b,), n - 1, device=device)
    left = torch.full((b,), n, device=device)
    rows = _by_kind(mine)
    columns = _by_kind(all_of)
    for size in range(1, len(rows) + 1):
        for kinds in combinations(range(len(rows)), size):
            row, column = (_joint([hashes[kind] for kind in kinds]) for hashes in (rows, columns))
            ordered = column.sort().values
            equal = torch.searchsorted(ordered, row, right=True) - torch.searchsorted(ordered, row)
            left = left - equal if size % 2 else left + equal
    return left


def _by_kind(hashes: Tensor) -> tuple[Tensor, ...]:
    return (
        (hashes,)
        if hashes.dim() == 1
        else tuple(column.contiguous() for column in hashes.unbind(1))
    )


def _joint(hashes: Sequence[Tensor]) -> Tensor:
    """Return a hash per row, equal for rows whose hashes of every kind are equal."""
    joint = hashes[0]
    for other in hashes[1:]:
        joint = joint * _ODD + other  # int64 wraps around
    return joint


def require_negatives(count: Tensor, alpha: float) -> None:
    """Raise ValueError if alpha is 0 and a row has no negatives: its loss log(alpha) does not
    exist."""
    if alpha == 0 and bool((count == 0).any()):
        raise ValueError(
            "alpha is 0 and a row of the batch has no negatives, so that its loss is undefined: use"
            " a batch in which every row has a negative, or alpha above 0"
        )


def row_losses(positive: Tensor, negatives: Tensor, alpha: float) -> Tensor:
    """Return the losses (b,) of rows. A row without negatives, whose sum N_i is -inf, has the loss
    log(alpha)."""
    if alpha == 0:
        return negatives - positive
    # softplus(x) = -logsigmoid(-x).
    return math.log(alpha) - logsigmoid(positive + math.log(alpha) - negatives)


def hn_nce_rows(
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
) -> RowLosses:
    """Compute HN-NCE of rows x (b, d) against columns y (n, d), in memory O(b n); the other forms
    must agree with this one. The arguments are those of `Loss.rows` and the constants: `alpha`, 0
    to 1, `beta`, at least 0, and `detach_weights`, which holds the weights w constant in the
    gradient. Columns that share a hash with the row are not negatives, and n-1 becomes the number
    of negatives left. Raises ValueError if a constant is out of range, or alpha is 0 and a row has
    no negatives."""
    check_constants(alpha, beta)
    b = len(x_bd)
    n = len(y_nd)
    count = negatives_per_row(b, n, mine, all_of, x_bd.device)
    require_negatives(count, alpha)
    s_bn = (scale * x_bd) @ y_nd.T
    positive = s_bn.diagonal(offset)[:b]
    if mine is None or all_of is None:
        excluded = torch.zeros(b, n, dtype=torch.bool, device=x_bd.device)
        excluded.diagonal(offset)[:b] = True
    else:
        excluded = duplicates(mine, all_of)  # includes the diagonal
    empty = count == 0
    # A row of only -inf would have NaN gradients: compute it with zeros, and replace its results at
    # the end.
    masked = s_bn.masked_fill(excluded, -math.inf).masked_fill(empty[:, None], 0.0)
    log_count = count.clamp(min=1).to(s_bn.dtype).log()
    if beta == 0:
        hard = masked
        negatives = torch.logsumexp(masked, dim=1)
        top_sum = negatives
    else:
        hard = (1 + beta) * masked
        top_sum = torch.logsumexp(hard, dim=1)
        weights = torch.logsumexp(beta * masked, dim=1)
        if detach_weights:  # the same value; only e^{s_ij} of e^{(1 + beta) s_ij} has a gradient
            top_sum, weights = (
                torch.logsumexp(masked + (beta * masked).detach(), dim=1),
                weights.detach(),
            )
        negatives = log_count + top_sum - weights
    negatives = negatives.masked_fill(empty, -math.inf)
    loss = row_losses(positive, negatives, alpha)
    with torch.no_grad():
        hardest = (hard.amax(dim=1) - top_sum).exp().masked_fill(empty, 0.0)
        hit = (positive > masked.amax(dim=1)) | empty
    return RowLosses(loss, hit, hardest)
