"""The concept loss: cross-entropy of a linear head with stored soft targets (paper, section 3.2).

Targets are sparse: the k most probable concepts of a sample, renormalized to sum to 1. With head logits v the loss
of a sample is logsumexp(v) - sum_k p_k v[c_k], without a dense (batch, vocabulary) target. Samples without concepts
(all probabilities 0) contribute nothing, and the mean is over the samples of the *global* batch that have concepts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def has_concepts(probabilities_bk: Tensor) -> Tensor:
    """Return the mask (b,) of samples that have a target."""
    return probabilities_bk.sum(dim=1) > 0


def concept_loss(logits_bc: Tensor, ids_bk: Tensor, probabilities_bk: Tensor, count: Tensor | float) -> Tensor:
    """Compute the sum of the losses of samples with concepts, divided by `count`; 0 if there are none.

    Args:
        logits_bc: logits of the head; the loss is computed in float32 (or float64).
        ids_bk: int64 concept ids.
        probabilities_bk: probabilities of the concepts, whose rows sum to 1 or to 0.
        count: samples with concepts in the whole batch (over all micro-batches), divided by the number of ranks, so
            that gradients averaged over ranks are those of the global mean.

    Returns:
        The loss, a scalar.
    """
    logits_bc = logits_bc if logits_bc.dtype == torch.float64 else logits_bc.float()
    probabilities_bk = probabilities_bk.to(logits_bc.dtype)
    log_q_bk = logits_bc.gather(1, ids_bk) - torch.logsumexp(logits_bc, dim=1, keepdim=True)
    divisor = torch.as_tensor(count, dtype=logits_bc.dtype, device=logits_bc.device)
    return -(probabilities_bk * log_q_bk).sum() / divisor.clamp(min=torch.finfo(logits_bc.dtype).tiny)
