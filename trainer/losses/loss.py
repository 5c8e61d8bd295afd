"""The base of losses over the pairs of a batch that is spread over ranks, with exact gradients; and
the concept loss.

Rank r owns b rows of each modality. The features of all ranks are gathered *with gradient*, and
rank r computes the losses of its own rows against all columns, in both directions unless these have
the same mean. The average over ranks, which DDP computes, is the gradient of the whole batch's
loss, for both encoders and the temperature.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from open_diht.common.ranks import Ranks

Statistics = Mapping[str, Tensor]
"""Maps the name of a statistic in the log to its values for the rows, or to their mean."""


@dataclass(frozen=True, kw_only=True)
class Loss(ABC):
    """A loss over pairs. Its fields are the keys of a configuration's section `loss`.

    A subclass computes the loss of a row; the base handles ranks, directions and precision.
    """

    name: str
    """Value of `loss.name` that selects the loss."""
    symmetric: ClassVar[bool] = False
    """True if both directions have the same mean over rows, so that only images against captions
    are computed."""
    biased: ClassVar[bool] = False
    """True if the model learns a bias of the logits that starts at `model.bias`. `rows` then takes
    a scalar `bias`."""

    takes_texts: ClassVar[bool] = False
    """True if images may have more texts as negatives than those of the pairs (`data.negatives`):
    `rows` then gets more columns, without rows of their own, behind the pairs'."""

    @abstractmethod
    def rows(
        self,
        x_bd: Tensor,
        y_nd: Tensor,
        scale: Tensor,
        *,
        offset: int,
        mine: Tensor | None,
        all_of: Tensor | None,
    ) -> tuple[Tensor, Statistics]:
        """Compute the losses of rows x against columns y.

        Args:
            x_bd: L2-normalized float32 or float64 features of the rows.
            y_nd: L2-normalized features of the columns, of the same type.
            scale: scalar factor of the cosine, exp of the learned log scale.
            offset: row i belongs to column `offset` + i.
            mine: (b, k) hashes of caption and image of the rows. With None no duplicates are known.
            all_of: (n, k) hashes of the columns; pairs that share one are duplicates
                (`rows.duplicates`).

        Returns:
            Differentiable losses (b,), and statistics of the rows, each (b,).
        """

    @property
    def tells_duplicates(self) -> bool:
        """True if the loss uses hashes of captions and images. If not, `mine` and `all_of` are
        None."""
        return True

    def remark(self, device: torch.device) -> str:
        """Describe how the loss is computed on a device, where the user should know.

        Args:
            device: the device of the features.

        Returns:
            A line to print when a training starts, or "".
        """
        return ""

    def describe(self) -> str:
        """Return the name and the constants, for the model card."""
        return self.name

    def __call__(
        self,
        image_bd: Tensor,
        text_bd: Tensor,
        scale: Tensor,
        *,
        bias: Tensor | None = None,
        hashes: Tensor | None = None,
        negatives: tuple[Tensor, Tensor, Tensor] | None = None,
        ranks: Ranks | None = None,
    ) -> tuple[Tensor, Statistics]:
        """Compute the loss of this rank's rows, in float32 (or float64) outside autocast.

        Args:
            image_bd: image features of this rank, normalized here; all ranks have the same b.
            text_bd: text features of this rank, normalized here.
            scale: scalar factor of the cosine, exp of the learned log scale.
            bias: scalar learned bias, if the loss is `biased`.
            hashes: (b, k) int64 hashes; pairs that share one are duplicates.
            negatives: features (b, d), caption hashes (b,) and mask (b,) of wrong captions of this
                rank's images, for a loss that `takes_texts`. Those that the masks of all ranks keep
                are negatives of every image, except of one whose own caption has the same hash, if
                the loss uses `hashes`.
            ranks: the ranks of the run. By default this process alone.

        Returns:
            The loss, a mean over rows and (unless `symmetric`) both directions; and the means of
            the statistics, with `negatives`, the fraction of this rank's images that have a wrong
            caption, if there are any.
        """
        ranks = ranks or Ranks()
        hashes = hashes if self.tells_duplicates else None
        with torch.autocast(image_bd.device.type, enabled=False):
            image_bd, text_bd = (
                normalize(at_least_float32(f), dim=-1) for f in (image_bd, text_bd)
            )
            scale = at_least_float32(scale).to(image_bd.dtype)
            all_hashes = None if hashes is None else ranks.gather(hashes)
            known: dict[str, Any] = {
                "offset": ranks.rank * len(image_bd),
                "mine": hashes,
                "all_of": all_hashes,
            }
            if self.biased:
                known["bias"] = None if bias is None else at_least_float32(bias).to(image_bd.dtype)
            columns = ranks.gather_with_gradient(text_bd)
            of_texts = dict(known)
            if negatives is not None:
                wrong, hash_b, present = negatives
                hash_n, present_n = ranks.gather(
                    torch.stack([hash_b, present.long()], dim=1)
                ).unbind(1)
                wrong = ranks.gather_with_gradient(normalize(wrong.to(image_bd.dtype), dim=-1))
                kept = present_n.nonzero()[:, 0]  # a GPU is waited for once
                columns = torch.cat([columns, wrong[kept]])
                if all_hashes is not None:
                    # It also stands for the hash of their image: they have none, so that no image
                    # excludes its own.
                    of_wrong = hash_n[kept][:, None].expand(-1, all_hashes.shape[1])
                    of_texts["all_of"] = torch.cat([all_hashes, of_wrong])
            to_text, statistics = self.rows(image_bd, columns, scale, **of_texts)
            loss = to_text.mean()
            if not self.symmetric:
                to_image, of_images = self.rows(
                    text_bd, ranks.gather_with_gradient(image_bd), scale, **known
                )
                loss = (loss + to_image.mean()) / 2
                statistics = {
                    name: torch.cat([values, of_images[name]])
                    for name, values in statistics.items()
                }
            if negatives is not None:
                statistics = {**statistics, "negatives": negatives[2]}
        return loss, {
            name: values.detach().to(loss.dtype).mean() for name, values in statistics.items()
        }


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a float64 tensor as it is, and others as float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def has_concepts(probabilities_bk: Tensor) -> Tensor:
    """Return the mask (b,) of samples that have a target."""
    return probabilities_bk.sum(dim=1) > 0


def concept_loss(
    logits_bc: Tensor, ids_bk: Tensor, probabilities_bk: Tensor, count: Tensor | float
) -> Tensor:
    """Compute the cross-entropy of a linear head with stored soft targets (paper, section 3.2).

    Targets are sparse: the k most probable concepts of a sample, renormalized to sum to 1. With
    head logits v the loss of a sample is logsumexp(v) - sum_k p_k v[c_k], without a dense (batch,
    vocabulary) target. The result is the sum over samples with concepts (the others have
    probabilities 0), divided by `count`. It is 0 if no sample has concepts.

    Args:
        logits_bc: logits of the head; the loss is computed in float32 (or float64).
        ids_bk: int64 concept ids.
        probabilities_bk: probabilities of the concepts, whose rows sum to 1 or to 0.
        count: samples with concepts in the whole batch (over all micro-batches), divided by the
            number of ranks, so that gradients averaged over ranks are those of the global mean.

    Returns:
        The loss, a scalar.
    """
    logits_bc = at_least_float32(logits_bc)
    probabilities_bk = probabilities_bk.to(logits_bc.dtype)
    log_q_bk = logits_bc.gather(1, ids_bk) - torch.logsumexp(logits_bc, dim=1, keepdim=True)
    divisor = torch.as_tensor(count, dtype=logits_bc.dtype, device=logits_bc.device)
    return -(probabilities_bk * log_q_bk).sum() / divisor.clamp(
        min=torch.finfo(logits_bc.dtype).tiny
    )
