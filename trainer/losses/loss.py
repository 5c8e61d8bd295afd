"""A loss over the pairs of a batch that is spread over ranks, in the one layout whose gradient is right.

Rank r owns b rows of each modality. The features of all ranks are gathered *with gradient*, and rank r computes the
losses of its own rows against all columns, in both directions. The gradients that DDP then averages over ranks are
those of the loss of the whole batch on one device, for both encoders and the temperature. (Without the gradient of the
gather they are too small by the number of ranks, or point elsewhere.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from open_diht.common.ranks import Ranks

Statistics = Mapping[str, Tensor]
"""Name to the values of rows, or to their mean; they stand in the log under these names."""


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """What pairs are scored by. The fields of a loss are its settings: the keys of a configuration's section `loss`. A
    loss says what a row costs; the base knows of ranks, directions and precision."""

    name: str
    """What `loss.name` selects it by."""

    @abstractmethod
    def rows(
        self, x_bd: Tensor, y_nd: Tensor, scale: Tensor, *, offset: int, mine: Tensor | None, all_of: Tensor | None
    ) -> tuple[Tensor, Statistics]:
        """(b,) differentiable losses of rows x against columns y, and statistics of the rows, each (b,).

        `x_bd` and `y_nd` are L2-normalised float32 or float64 features, row i belongs to column `offset` + i, `scale`
        is exp of the learned temperature; `mine` (b, k) and `all_of` (n, k) are k hashes of each pair, of its caption
        and its image: pairs that share one of them are duplicates, see `rows.duplicates`.
        """

    @property
    def tells_duplicates(self) -> bool:
        """It needs to know which captions and images are equal; without it `mine` and `all_of` are None."""
        return True

    @property
    def symmetric(self) -> bool:
        """The mean over rows is the same in both directions, so that images against captions are enough."""
        return False

    @property
    def biased(self) -> bool:
        """The model learns a bias of the logits with it: `rows` then has a keyword `bias`, a scalar. The configuration
        has to say where it starts, `model.bias`."""
        return False

    def remark(self, device: torch.device) -> str:
        """What people should know about how it is computed on a device; empty: nothing."""
        return ""

    def describe(self) -> str:
        """A few words for the model card."""
        return self.name

    def __call__(
        self,
        image_bd: Tensor,
        text_bd: Tensor,
        scale: Tensor,
        *,
        bias: Tensor | None = None,
        hashes: Tensor | None = None,
        ranks: Ranks | None = None,
    ) -> tuple[Tensor, Statistics]:
        """Loss of this rank's rows, mean over rows and directions (one if `symmetric`), and means of its statistics.

        `image_bd`, `text_bd`: features of this rank, as the encoders give them (they are normalised here), the same b
        on all ranks; `scale`: exp of the learned temperature; `bias`: the learned bias of a loss that is `biased`;
        `hashes` (b, k): pairs that share one are duplicates. Everything is computed in float32 (or float64)
        outside autocast.
        """
        ranks = ranks or Ranks()
        hashes = hashes if self.tells_duplicates else None
        with torch.autocast(image_bd.device.type, enabled=False):
            image_bd, text_bd = (normalize(_at_least_float32(f), dim=-1) for f in (image_bd, text_bd))
            scale = _at_least_float32(scale).to(image_bd.dtype)
            all_hashes = None if hashes is None else ranks.gather(hashes)
            known: dict[str, Any] = {"offset": ranks.rank * len(image_bd), "mine": hashes, "all_of": all_hashes}
            if self.biased:
                known["bias"] = None if bias is None else _at_least_float32(bias).to(image_bd.dtype)
            to_text, statistics = self.rows(image_bd, ranks.gather_with_gradient(text_bd), scale, **known)
            loss = to_text.mean()
            if not self.symmetric:
                to_image, of_images = self.rows(text_bd, ranks.gather_with_gradient(image_bd), scale, **known)
                loss = (loss + to_image.mean()) / 2
                statistics = {name: torch.cat([values, of_images[name]]) for name, values in statistics.items()}
        return loss, {name: values.detach().to(loss.dtype).mean() for name, values in statistics.items()}


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
