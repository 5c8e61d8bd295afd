"""The SigLIP loss, a binary classification of every image and caption pair (Zhai et al., 2023,
arXiv:2303.15343).

With logits s_ij = scale x_i . y_j + bias over n pairs

    L = -1/n [ sum_i log sigmoid(s_ii) + sum_i sum_{j != i} log sigmoid(-s_ij) ]

There is no softmax over pairs, so a learned bias has to account for the rarity of matches.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from open_diht.common.fields import check_fields
from open_diht.trainer.losses.chunked import in_tiles
from open_diht.trainer.losses.loss import Loss, Statistics
from open_diht.trainer.losses.rows import duplicates


@dataclass(frozen=True, kw_only=True)
class SigLip(Loss):
    """The pairwise sigmoid loss (Zhai et al. 2023).

    The model must have a logit bias (`model.bias`); without one, a call raises ValueError. The loss
    is computed in tiles of at most 32 MiB of float32 similarities, or of one row; the backward pass
    recomputes them if there are several. Its statistics are `accuracy`, the fraction of images
    whose caption is more similar than every negative, and `bias`.
    """

    symmetric: ClassVar[bool] = True
    biased: ClassVar[bool] = True
    name: str = "siglip"
    """siglip: the pairwise sigmoid loss, with a learned bias that starts at `model.bias`. (SigLIP's
    paper)"""
    mask_duplicates: bool = True
    """Do not use pairs with equal captions or equal images as negatives of each other. (ours; false
    as published)"""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def tells_duplicates(self) -> bool:
        return self.mask_duplicates

    def describe(self) -> str:
        """Return the name."""
        return "SigLIP"

    def rows(
        self,
        x_bd: Tensor,
        y_nd: Tensor,
        scale: Tensor,
        *,
        offset: int,
        mine: Tensor | None,
        all_of: Tensor | None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Statistics]:
        if bias is None:
            raise ValueError("the loss siglip needs the model's logit bias: set model.bias=-10")

        def tile(rows: slice) -> tuple[Tensor, Tensor]:
            of_rows = None if mine is None else mine[rows]
            return _tile(x_bd[rows], y_nd, scale, bias, offset + rows.start, of_rows, all_of)

        losses, hits = in_tiles(tile, len(x_bd), len(y_nd))
        return losses, {"accuracy": hits, "bias": bias.expand(len(x_bd))}


def _tile(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor,
    offset: int,
    mine: Tensor | None,
    all_of: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the losses of some rows, and whether their positive is above every negative."""
    logits = (scale * x) @ y.T + bias
    positive = logits.diagonal(offset)[: len(x)]
    if mine is None or all_of is None:
        excluded = torch.zeros_like(logits, dtype=torch.bool)
        excluded.diagonal(offset)[: len(x)] = True
    else:
        excluded = duplicates(mine, all_of)  # includes the diagonal
    # log sigmoid(inf) is 0, and so is its gradient.
    negatives = logits.masked_fill(excluded, -math.inf)
    loss = -logsigmoid(positive) - logsigmoid(-negatives).sum(dim=1)
    return loss, positive > negatives.amax(dim=1)
