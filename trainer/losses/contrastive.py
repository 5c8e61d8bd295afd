"""The contrastive loss of a batch that is spread over ranks, in the one layout whose gradient is right.

Rank r owns b rows of each modality. The features of all ranks are gathered *with gradient*, and rank r computes the
losses of its own rows against all columns, in both directions. The gradients that DDP then averages over ranks are
those of the loss of the whole batch on one device, for both encoders and the temperature. (Without the gradient of the
gather they are too small by the number of ranks, or point elsewhere.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from trainer.distributed import Ranks
from trainer.losses.chunked import hn_nce_rows_chunked
from trainer.losses.hn_nce import RowLosses, check_constants, hn_nce_rows

EAGER_BYTES = 256 * 2**20
"""Logits above this many bytes are not held at once where `chunk` is None."""


class ContrastiveStats(NamedTuple):
    """What happened in the batch of this rank; detached scalars."""

    accuracy: Tensor
    """Share of rows, over both directions, whose positive is more similar than every negative."""
    hardest: Tensor
    """Mean share of the hardest negative in the weighted sum over negatives."""


@dataclass(frozen=True, kw_only=True)
class ContrastiveLoss:
    """HN-NCE, or with alpha = 1 and beta = 0 InfoNCE, over the global batch."""

    alpha: float = 1.0
    beta: float = 0.25
    detach_weights: bool = False
    chunk: int | None = None
    """Rows of a tile; 0: the whole matrix at once; None: at once up to 256 MiB of logits, in tiles above."""

    def __post_init__(self) -> None:
        check_constants(self.alpha, self.beta)
        if self.chunk is not None and self.chunk < 0:
            raise ValueError(f"chunk is {self.chunk}; it must be at least 1, 0 for no tiles, or nothing")

    def __call__(
        self,
        image_bd: Tensor,
        text_bd: Tensor,
        scale: Tensor,
        *,
        hashes: Tensor | None = None,
        ranks: Ranks | None = None,
    ) -> tuple[Tensor, ContrastiveStats]:
        """Loss of this rank's rows, mean over rows and the two directions, and its statistics.

        `image_bd`, `text_bd`: features of this rank, as the encoders give them (they are normalised here), the same b
        on all ranks; `scale`: exp of the learned temperature; `hashes` (b,): equal for pairs that are no negatives of
        each other. Everything is computed in float32 (or float64) outside autocast.
        """
        ranks = ranks or Ranks()
        with torch.autocast(image_bd.device.type, enabled=False):
            image_bd, text_bd = (normalize(_at_least_float32(f), dim=-1) for f in (image_bd, text_bd))
            scale = _at_least_float32(scale).to(image_bd.dtype)
            image_nd, text_nd = ranks.gather_with_gradient(image_bd), ranks.gather_with_gradient(text_bd)
            all_hashes = None if hashes is None else ranks.gather(hashes)
            offset = ranks.rank * len(image_bd)
            to_text = self._rows(image_bd, text_nd, scale, offset, hashes, all_hashes)
            to_image = self._rows(text_bd, image_nd, scale, offset, hashes, all_hashes)
            loss = (to_text.loss.mean() + to_image.loss.mean()) / 2
        hits = torch.cat([to_text.hit, to_image.hit]).to(loss.dtype)
        return loss, ContrastiveStats(hits.mean(), torch.cat([to_text.hardest, to_image.hardest]).mean())

    def _rows(
        self, x: Tensor, y: Tensor, scale: Tensor, offset: int, mine: Tensor | None, all_of: Tensor | None
    ) -> RowLosses:
        chunk = self.chunk
        if chunk is None and len(x) * len(y) * x.element_size() <= EAGER_BYTES:
            chunk = 0
        if chunk == 0:
            return hn_nce_rows(
                x, y, scale, alpha=self.alpha, beta=self.beta, detach_weights=self.detach_weights,
                offset=offset, mine=mine, all_of=all_of,
            )  # fmt: skip
        return hn_nce_rows_chunked(
            x, y, scale, alpha=self.alpha, beta=self.beta, detach_weights=self.detach_weights,
            offset=offset, mine=mine, all_of=all_of, chunk=chunk,
        )  # fmt: skip


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
