"""The input of a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """b pairs."""

    images: Tensor
    """(b, 3, h, w) uint8 pixels, in any layout in memory, which the student normalizes on the device; or what
    a transform of one's own returned."""
    texts: Tensor
    """(b, context) int64, token ids."""
    caption_hash: Tensor
    """(b,) int64, equal for equal captions."""
    image_hash: Tensor
    """(b,) int64, equal for images of equal bytes."""
    keys: list[str]
    """The samples' keys in their shards."""
    concepts: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Head ("objects", "attributes") to ids (b, k) int64 and probabilities (b, k) float32 that sum to 1; a row of zeros
    is a sample without concept. Empty where no targets are joined."""

    @property
    def hashes(self) -> Tensor:
        """(b, 2) int64: pairs that share either are no negatives of each other."""
        return torch.stack([self.caption_hash, self.image_hash], dim=1)

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which a copy does not block."""
        return self._each(Tensor.pin_memory)

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until that CUDA stream is done with it."""
        for tensor in (self.images, self.texts, self.caption_hash, self.image_hash, *sum(self.concepts.values(), ())):
            tensor.record_stream(stream)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            images=change(self.images),
            texts=change(self.texts),
            caption_hash=change(self.caption_hash),
            image_hash=change(self.image_hash),
            keys=self.keys,
            concepts={head: (change(ids), change(p)) for head, (ids, p) in self.concepts.items()},
        )
