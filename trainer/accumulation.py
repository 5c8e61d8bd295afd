"""The gradient of one batch, computed in parts (GradCache, Gao et al. 2021).

The contrastive loss couples all pairs of a batch, so averaging the gradients of parts is not its gradient. Instead:
(1) encode every part without gradient and keep the features; (2) one loss over all features, of all ranks, and its
gradient with respect to them; (3) encode each part again, with the same random numbers, and push its feature gradients
through. Losses that are sums over samples, such as the concept loss, join in (3). Ranks exchange gradients once, in the
last part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from open_diht.common.ranks import Ranks
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.losses import Loss, Statistics, concept_loss
from open_diht.trainer.losses.concepts import has_concepts
from open_diht.trainer.model import Encoded, Student


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a batch is scored by."""

    contrastive: Loss
    concepts: Mapping[str, float] = field(default_factory=dict)
    """Head to the factor of its loss."""


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """Detached values of this rank; their mean over ranks is that of the global batch."""

    total: Tensor
    contrastive: Tensor
    concepts: dict[str, Tensor]
    statistics: Statistics


def backward(
    module: nn.Module,
    student: Student,
    batch: Batch,
    losses: Losses,
    *,
    parts: int = 1,
    ranks: Ranks | None = None,
    seed_part: Callable[[int], None] = lambda part: None,
    scaler: torch.amp.GradScaler | None = None,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    pixels: Callable[[Tensor], Tensor] = lambda images: images,
) -> BatchLoss:
    """Add the gradient of the batch's loss to the parameters.

    `module` is `student` or DDP around it; `batch` is this rank's, on the device of the student, of the same size on
    all ranks; `seed_part` seeds the random numbers of a part; `pixels` makes the encoder's input of its images, so that
    no others are there in float32. With a scaler the gradients are scaled. Raises ValueError where the batch cannot be
    cut into `parts` parts.
    """
    ranks = ranks or Ranks()
    if not 1 <= parts <= len(batch):
        raise ValueError(f"a batch of {len(batch)} pairs on this rank cannot be computed in {parts} parts")
    scale = scaler.scale if scaler is not None else lambda tensor: tensor
    hashes, counts = batch.hashes, _counts(batch, losses, ranks)
    if parts == 1:
        seed_part(0)
        with autocast():
            encoded: Encoded = module(pixels(batch.images), batch.texts)
        value, statistics = losses.contrastive(
            encoded.image, encoded.text, encoded.scale, bias=encoded.bias, hashes=hashes, ranks=ranks
        )
        of_concepts = _concept_losses(encoded, batch, slice(None), losses, counts)
        total = value + sum(losses.concepts[head] * loss for head, loss in of_concepts.items())
        scale(total).backward()
        concepts = {head: loss.detach() for head, loss in of_concepts.items()}
        return BatchLoss(total=total.detach(), contrastive=value.detach(), concepts=concepts, statistics=statistics)

    slices = _cut(len(batch), parts)
    features = _features(student, batch, slices, seed_part, autocast, pixels)
    factor = student.clip.logit_scale.detach().exp().requires_grad_()
    bias = None if student.clip.logit_bias is None else student.clip.logit_bias.detach().clone().requires_grad_()
    value, statistics = losses.contrastive(*features, factor, bias=bias, hashes=hashes, ranks=ranks)
    scale(value).backward()
    learned = [leaf for leaf in (factor, bias) if leaf is not None]
    sums: dict[str, Tensor] = {}
    for number, rows in enumerate(slices):
        last = number == parts - 1
        with nullcontext() if last or module is student else module.no_sync():  # type: ignore[operator]
            seed_part(number)
            with autocast():
                encoded = module(pixels(batch.images[rows]), batch.texts[rows])
            of_concepts = _concept_losses(encoded, batch, rows, losses, counts)
            pushed = _push(encoded, features, rows, [leaf.grad if last else torch.zeros_like(leaf) for leaf in learned])
            weighted = [losses.concepts[head] * loss for head, loss in of_concepts.items()]
            (pushed + scale(torch.stack(weighted).sum()) if weighted else pushed).backward()
        for head, loss in of_concepts.items():
            sums[head] = sums.get(head, 0) + loss.detach()
    total = value.detach() + sum(losses.concepts[head] * loss for head, loss in sums.items())
    return BatchLoss(total=total, contrastive=value.detach(), concepts=sums, statistics=statistics)


def _cut(size: int, parts: int) -> list[slice]:
    edges = [size * part // parts for part in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


@torch.no_grad()
def _features(
    student: Student,
    batch: Batch,
    slices: Sequence[slice],
    seed_part: Callable[[int], None],
    autocast: Callable[[], AbstractContextManager[None]],
    pixels: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    images, texts = [], []
    for number, rows in enumerate(slices):
        seed_part(number)
        with autocast():
            encoded = student(pixels(batch.images[rows]), batch.texts[rows])
        images.append(encoded.image.float())
        texts.append(encoded.text.float())
    return torch.cat(images).requires_grad_(), torch.cat(texts).requires_grad_()


def _push(
    encoded: Encoded, features: tuple[Tensor, Tensor], rows: slice, of_learned: Sequence[Tensor | None]
) -> Tensor:
    """A scalar whose gradient is that of the contrastive loss through this part; `of_learned`: with respect to the
    scale and, where there is one, the bias."""
    image, text = (feature.grad for feature in features)
    assert image is not None and text is not None
    pushed = (encoded.image.float() * image[rows]).sum() + (encoded.text.float() * text[rows]).sum()
    learned = [value for value in (encoded.scale, encoded.bias) if value is not None]
    for value, gradient in zip(learned, of_learned, strict=True):
        assert gradient is not None
        pushed = pushed + value * gradient
    return pushed


def _counts(batch: Batch, losses: Losses, ranks: Ranks) -> dict[str, Tensor]:
    """Head to the number of samples with concepts in the global batch, divided by the number of ranks."""
    if not losses.concepts:
        return {}
    missing = [head for head in losses.concepts if head not in batch.concepts]
    if missing:
        raise ValueError(f"the batch has no targets for {', '.join(missing)}")
    mine = torch.stack([has_concepts(batch.concepts[head][1]).sum() for head in losses.concepts]).float()
    return dict(zip(losses.concepts, ranks.sum(mine) / ranks.world, strict=True))


def _concept_losses(
    encoded: Encoded, batch: Batch, rows: slice, losses: Losses, counts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    result = {}
    for head in losses.concepts:
        ids, probabilities = batch.concepts[head]
        result[head] = concept_loss(encoded.concepts[head], ids[rows], probabilities[rows], counts[head])
    return result
