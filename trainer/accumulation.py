"""The gradient of one batch, computed in parts (GradCache, Gao et al. 2021).

The contrastive loss couples all pairs of a batch, so the mean of the parts' gradients is not the
batch's gradient. Instead: (1) encode every part without gradient and keep the features; (2) compute
one loss over the features of all ranks, and its gradient with respect to them; (3) encode each part
again, with the same random numbers, and backpropagate its feature gradients. The distillation loss
couples all pairs too and is added in (2). Losses that are sums over samples, such as the concept
loss, are added in (3). Ranks average the gradients of the parameters once, in the last part.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from open_diht.common.ranks import Ranks
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.losses import Distillation, Loss, Statistics, concept_loss
from open_diht.trainer.losses.loss import has_concepts
from open_diht.trainer.model import Encoded


@dataclass(frozen=True, kw_only=True)
class Losses:
    contrastive: Loss
    concepts: Mapping[str, float] = field(default_factory=dict)
    """Maps the name of a head to the factor of its loss."""
    distillation: Distillation | None = None
    """The loss on stored embeddings, if they are learned. Its statistic is `distillation`, the loss
    without its factor."""


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """Detached losses of this rank. Their means over ranks are the losses of the global batch. If
    targets are learned, the statistic `without_targets` is the number of this rank's pairs that
    lack embeddings or those of a head.
    """

    total: Tensor
    contrastive: Tensor
    concepts: dict[str, Tensor]
    statistics: Statistics


def backward(
    module: nn.Module,
    batch: Batch,
    losses: Losses,
    *,
    parts: int = 1,
    seeds: Sequence[int] | None = None,
    ranks: Ranks | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> BatchLoss:
    """Add the gradient of the whole batch's loss to the parameters, and return the losses,
    detached. `batch` holds this rank's pairs, as many as on every other rank, and is computed in
    `parts` parts. `seeds` has a seed of torch's random numbers for each part; if it is None,
    nothing is seeded. Raises ValueError if the batch cannot be cut into so many parts, or has no
    targets for a loss."""
    ranks = ranks or Ranks()
    if not 1 <= parts <= len(batch):
        raise ValueError(
            f"a batch of {len(batch)} pairs on this rank cannot be computed in {parts} parts"
        )
    student: Any = (
        module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
    )
    slices = [
        slice(*ends) for ends in pairwise(len(batch) * part // parts for part in range(parts + 1))
    ]
    scale = scaler.scale if scaler is not None else lambda tensor: tensor
    counts = _counts(batch, losses, ranks)
    taught = [has_concepts(batch.concepts[head][1]) for head in losses.concepts]
    """Masks of this rank's pairs with targets of each kind."""

    def encode(encoder: nn.Module, part: int) -> Encoded:
        if seeds is not None:
            torch.manual_seed(seeds[part])  # the same dropout in both passes
        inputs = (batch.images, batch.texts) + (
            () if batch.negatives is None else (batch.negatives.texts,)
        )
        return encoder(*(each[slices[part]] for each in inputs))

    def coupled(
        features: Sequence[Tensor], factor: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Statistics]:
        """Return the weighted sum of the losses over pairs of the batch, the contrastive one alone,
        and statistics."""
        image, text, *wrong = features
        given = batch.negatives
        negatives = None if given is None else (wrong[0], given.caption_hash, given.present)
        value, statistics = losses.contrastive(
            image, text, factor, bias=bias, hashes=batch.hashes, negatives=negatives, ranks=ranks
        )
        if losses.distillation is None:
            return value, value, statistics
        distilled, known = losses.distillation(image, text, factor, batch.teacher, ranks)
        taught.append(known)
        total = value + losses.distillation.weight * distilled
        return total, value, {**statistics, "distillation": distilled.detach()}

    def concept_losses(encoded: Encoded, part: int) -> dict[str, Tensor]:
        found = {}
        for head in losses.concepts:
            ids, probabilities = (values[slices[part]] for values in batch.concepts[head])
            found[head] = concept_loss(encoded.concepts[head], ids, probabilities, counts[head])
        return found

    if parts == 1:
        encoded = encode(module, 0)
        of_pairs, value, statistics = coupled(encoded.features, encoded.scale, encoded.bias)
        of_concepts = concept_losses(encoded, 0)
        total = of_pairs + sum(losses.concepts[head] * loss for head, loss in of_concepts.items())
        scale(total).backward()
        return BatchLoss(
            total=total.detach(),
            contrastive=value.detach(),
            concepts={head: loss.detach() for head, loss in of_concepts.items()},
            statistics={**statistics, **_without(taught)},
        )

    with torch.no_grad():  # step (1)
        kept = [[each.float() for each in encode(student, part).features] for part in range(parts)]
    features = [torch.cat(each).requires_grad_() for each in zip(*kept, strict=True)]
    factor = student.clip.logit_scale.detach().exp().requires_grad_()
    bias = (
        None
        if student.clip.logit_bias is None
        else student.clip.logit_bias.detach().clone().requires_grad_()
    )
    of_pairs, value, statistics = coupled(features, factor, bias)
    scale(of_pairs).backward()  # step (2): the gradient with respect to features, scale and bias
    leaves = [leaf for leaf in (factor, bias) if leaf is not None]
    gradients = [each.grad for each in features if each.grad is not None]
    sums: dict[str, Tensor] = {}
    for part, rows in enumerate(slices):  # step (3)
        last = part == parts - 1
        with nullcontext() if last or module is student else module.no_sync():  # type: ignore[operator]
            encoded = encode(module, part)
            of_concepts = concept_losses(encoded, part)
            # The gradient of this scalar is the gradient of the losses over pairs through this
            # part.
            terms = zip(encoded.features, gradients, strict=True)
            pushed = reduce(
                torch.add, [(each.float() * gradient[rows]).sum() for each, gradient in terms]
            )
            learned = [value for value in (encoded.scale, encoded.bias) if value is not None]
            # Scale and bias get their whole gradient in the last part, where ranks exchange
            # gradients.
            for of_part, leaf in zip(learned, leaves, strict=True):
                gradient = leaf.grad if last else torch.zeros_like(leaf)
                assert gradient is not None
                pushed = pushed + of_part * gradient
            weighted = [losses.concepts[head] * loss for head, loss in of_concepts.items()]
            (pushed + scale(torch.stack(weighted).sum()) if weighted else pushed).backward()
        for head, loss in of_concepts.items():
            sums[head] = sums.get(head, 0) + loss.detach()
    total = of_pairs.detach() + sum(losses.concepts[head] * loss for head, loss in sums.items())
    statistics = {**statistics, **_without(taught)}
    return BatchLoss(total=total, contrastive=value.detach(), concepts=sums, statistics=statistics)


def _without(taught: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the statistic `without_targets` for the masks of the pairs with targets of each
    kind."""
    return {"without_targets": (~reduce(torch.logical_and, taught)).sum()} if taught else {}


def _counts(batch: Batch, losses: Losses, ranks: Ranks) -> dict[str, Tensor]:
    """Return for each head the number of samples with concepts in the global batch, divided by the
    number of ranks."""
    missing = [head for head in losses.concepts if head not in batch.concepts]
    missing += ["distillation"] if losses.distillation and not batch.teacher else []
    if missing:
        raise ValueError(f"the batch has no targets for {', '.join(missing)}")
    if not losses.concepts:
        return {}
    mine = torch.stack(
        [has_concepts(batch.concepts[head][1]).sum() for head in losses.concepts]
    ).float()
    return dict(zip(losses.concepts, ranks.sum(mine) / ranks.world, strict=True))
