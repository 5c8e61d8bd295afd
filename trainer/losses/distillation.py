"""The distillation loss of MobileCLIP (Vasu et al., 2024, arXiv:2311.17049), from stored embeddings
of a teacher.

With the student's logits s_ij = scale x_i . y_j and the teacher's t_ij = u_i . v_j / temperature
over a batch

    L = 1/2 [ mean_i KL(softmax_j t_ij || softmax_j s_ij) + mean_j KL(softmax_i t_ij || softmax_i
    s_ij) ]

The divergence and the paper's cross-entropy have the same gradient; the divergence is 0 where the
student agrees. The teacher's embeddings may have another dimension than the student's. A constant
bias of the logits cancels. Of several teachers, softmax_j t_ij is the mean of their distributions,
not that of their mean cosine, which is sharper or flatter.

The loss is over the pairs that have a target. Others have no loss of their own, and are no
candidates either: the teacher's softmax gives them no probability, so as columns of the student's
they would be pushed away from every pair, about which the teacher said nothing. Duplicates need no
mask, because the teacher finds them equally similar.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import kl_div, normalize

from open_diht.common.ranks import Ranks
from open_diht.trainer.losses.chunked import in_tiles
from open_diht.trainer.losses.loss import at_least_float32

_FAR = -1e30
"""Logit of a column without a target. Its probability is 0, and as a finite number it makes no NaN
if all are so."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """The distillation loss as a term of a training's loss."""

    weight: float
    """Factor of the loss."""
    temperature: float
    """The teacher's cosines are divided by it."""
    teachers: int = 1
    """Number of teachers whose embeddings, of equal length, are concatenated in the targets."""

    def __call__(
        self,
        image_bd: Tensor,
        text_bd: Tensor,
        scale: Tensor,
        targets: Sequence[Tensor],
        ranks: Ranks | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss of this rank's rows by tiles, in float32 (or float64) outside autocast.
        As with `Loss`, the mean over ranks has the gradient of the whole batch.

        Args:
            image_bd: image features of this rank, normalized here.
            text_bd: text features of this rank, normalized here.
            scale: scalar factor of the student's cosines.
            targets: the image and text embeddings of this rank's pairs, each (b, e), those of each
                teacher normalized here. A pair with zeros for an image or text of a teacher has no
                target.
            ranks: the ranks of the run. By default this process alone.

        Returns:
            The loss, not yet multiplied by `weight`, and the mask (b,) of this rank's pairs with a
            target.
        """
        ranks, b = ranks or Ranks(), len(image_bd)
        with torch.autocast(image_bd.device.type, enabled=False):
            image_bd, text_bd = (
                normalize(at_least_float32(f), dim=-1) for f in (image_bd, text_bd)
            )
            scale = at_least_float32(scale).to(image_bd.dtype)
            gathered = (
                ranks.gather(f).to(image_bd.dtype).unflatten(1, (self.teachers, -1))
                for f in targets
            )
            image_nte, text_nte = (normalize(f, dim=-1) for f in gathered)
            known_n = (image_nte.any(dim=2) & text_nte.any(dim=2)).all(dim=1)
            mine = slice(ranks.rank * b, ranks.rank * b + b)
            both = (
                (image_bd, text_bd, image_nte, text_nte),
                (text_bd, image_bd, text_nte, image_nte),
            )
            losses = [
                self._rows(x, ranks.gather_with_gradient(y), scale, u[mine], v, known_n)
                * known_n[mine]
                for x, y, u, v in both
            ]
            # Ranks are averaged, and may have different numbers of targets.
            loss = torch.cat(losses).sum() * ranks.world / (2 * known_n.sum().clamp(min=1))
        return loss, known_n[mine]

    def _rows(
        self, x: Tensor, y: Tensor, scale: Tensor, u: Tensor, v: Tensor, known: Tensor
    ) -> Tensor:
        """Return the divergences (b,) of rows x and u of student and teachers against the columns y
        and v."""

        def tile(rows: slice) -> tuple[Tensor]:
            found = ((scale * x[rows]) @ y.T).masked_fill(~known, _FAR).log_softmax(dim=1)
            of_each = (
                ((u[rows, t] / self.temperature) @ v[:, t].T)
                .masked_fill(~known, _FAR)
                .log_softmax(dim=1)
                for t in range(self.teachers)
            )
            wanted = reduce(torch.logaddexp, of_each) - math.log(self.teachers)
            return (kl_div(found, wanted, reduction="none", log_target=True).sum(dim=1),)

        return in_tiles(tile, len(x), len(y))[0]
