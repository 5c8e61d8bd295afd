"""Batches of pairs, the input of a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Negatives(NamedTuple):
    """Captions that are wrong for the images of a batch, at most one for each image
    (`data.negatives`)."""

    texts: Tensor
    """(b, context) int64 token ids. Rows without a caption are those of an empty text."""
    caption_hash: Tensor
    """(b,) int64, equal for captions of equal bytes, also for those of pairs."""
    present: Tensor
    """(b,) bool: the image has a wrong caption."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of b pairs."""

    images: Tensor
    """(b, 3, h, w) uint8 pixels in any memory layout, which the student normalizes on the device;
    or the output of another transform."""
    texts: Tensor
    """(b, context) int64 token ids."""
    caption_hash: Tensor
    """(b,) int64, equal for captions of equal bytes."""
    image_hash: Tensor
    """(b,) int64, equal for images of equal bytes."""
    keys: list[str]
    """Keys of the samples in their shards or files."""
    concepts: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Maps a head ("objects", "attributes") to ids (b, k) int64 and probabilities (b, k) float32.
    Rows of probabilities sum to 1, or are zero for samples without predictions. Empty if there are
    no targets."""
    teacher: tuple[Tensor, ...] = ()
    """A teacher's embeddings of image and caption, each (b, e) float16, with zeros for samples
    without. Empty if none are learned."""
    negatives: Negatives | None = None
    """Wrong captions. None: the training does not use them."""

    @property
    def hashes(self) -> Tensor:
        """(b, 2) int64 hashes of caption and image. Pairs that share either are duplicates, which
        losses may mask."""
        return torch.stack([self.caption_hash, self.image_hash], dim=1)

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch on another device; copies from page-locked memory are asynchronous if
        `non_blocking`."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which asynchronous copies are possible."""
        return self._each(Tensor.pin_memory)

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory of the tensors until a CUDA stream is done with them."""
        targets = (*sum(self.concepts.values(), ()), *self.teacher, *(self.negatives or ()))
        for tensor in (self.images, self.texts, self.caption_hash, self.image_hash, *targets):
            tensor.record_stream(stream)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            images=change(self.images),
            texts=change(self.texts),
            caption_hash=change(self.caption_hash),
            image_hash=change(self.image_hash),
            keys=self.keys,
            concepts={head: (change(ids), change(p)) for head, (ids, p) in self.concepts.items()},
            teacher=tuple(map(change, self.teacher)),
            negatives=None if self.negatives is None else Negatives(*map(change, self.negatives)),
        )
