"""HN-NCE as a module that takes the keyword arguments of open_clip's `ClipLoss`, for trainers other
than ours."""

import logging
import math

from torch import Tensor, nn

from open_diht.common.ranks import Ranks
from open_diht.trainer.losses.hn_nce import HnNce, fitting_scale

_log = logging.getLogger("open_diht")


class HnNceLoss(nn.Module):
    """The HN-NCE loss of DiHT (section 3.3) as a replacement of open_clip's `ClipLoss`.

    On several ranks the gradient is that of the whole batch's loss: features are gathered with
    gradient, and each rank computes the losses of its own rows, so that the average over ranks,
    which DDP computes, is the gradient of one process with the whole batch. This is what open_clip
    calls `--local-loss --gather-with-grad`. Duplicates are not masked, so on normalized features
    `HnNceLoss(alpha=1, beta=0)` equals `ClipLoss` with these options up to rounding.

    Args:
        alpha: weight of the positive in the denominator, 0 to 1.
        beta: hardness; the weight of a negative is proportional to e^(beta * logit). 0 weighs all
            negatives alike.
        local_loss: accepted as `ClipLoss` accepts it; the layout is always the exact one, whatever
            its value.
        gather_with_grad: accepted and ignored, like `local_loss`.
        cache_labels: accepted and ignored; there are no labels to cache.
        rank: index of this process in torch.distributed's default group.
        use_horovod: must be False.

    Raises:
        ValueError: `alpha` or `beta` is out of range, or `use_horovod` is True.

    Examples:
        >>> import torch
        >>> from open_diht.losses import HnNceLoss
        >>> features = torch.eye(4)
        >>> HnNceLoss(beta=0.25)(features, features, torch.tensor(5.0)).item() < 0.1
        True
    """

    _advised = False

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.25,
        *,
        local_loss: bool = True,
        gather_with_grad: bool = True,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        if use_horovod:
            raise ValueError(
                "HnNceLoss gathers with torch.distributed; start the processes with torchrun, not"
                " Horovod"
            )
        self.loss = HnNce(alpha=alpha, beta=beta, mask_duplicates=False)
        self.ranks = Ranks(rank, world_size)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss of this rank's pairs, a mean over pairs and both directions.

        Args:
            image_features: (b, d); computed in float32 (or float64) and L2-normalized here.
            logit_scale: scalar factor of the cosines, the exponential of the learned parameter.
            logit_bias: accepted and unused: a constant added to all logits cancels in HN-NCE.
            output_dict: whether to return {"contrastive_loss": loss}, as open_clip's trainer
                requests.
        """
        self._advise(logit_scale)
        loss, _ = self.loss(image_features, text_features, logit_scale, ranks=self.ranks)
        return {"contrastive_loss": loss} if output_dict else loss

    def extra_repr(self) -> str:
        """Return the two constants, for `print(module)`."""
        return f"alpha={self.loss.alpha:g}, beta={self.loss.beta:g}"

    def _advise(self, logit_scale: Tensor) -> None:
        """Log a warning, once in a process, if its first training step has a scale that is too high
        for short runs."""
        if HnNceLoss._advised or not self.loss.beta or not self.training:
            return
        HnNceLoss._advised = True  # reading the scale waits for a GPU, so it is read once
        scale = float(logit_scale.detach())
        fitting = fitting_scale(self.loss.beta)
        if self.ranks.first and scale > 1.01 * fitting:
            _log.warning(
                "HN-NCE with beta %g begins at logit_scale %.3g. Short runs end better when a new"
                " model begins at %.3g: open_clip.create_model(..., init_logit_scale=%.3g).",
                self.loss.beta,
                scale,
                fitting,
                math.log(fitting),
            )
