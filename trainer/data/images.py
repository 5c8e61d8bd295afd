"""The images of a batch, in one tensor from the start.

Each is copied while it is still in the processor's cache. In a worker the tensor lies in shared memory, which is how it
gets to the training: stacked elsewhere it would be copied once more (of 64 images of 224 pixels 10 MB).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import get_worker_info


class Images:
    """Room for `n` images of the shape, type and layout in memory of the first."""

    def __init__(self, n: int):
        self._n, self._filled = n, 0
        self.tensor: Tensor | None = None
        """(n, channels, height, width); None before the first image."""

    def add(self, image: Tensor) -> None:
        """Put the next image (channels, height, width) in its place. Raises ValueError for another shape or type."""
        if self.tensor is None:
            self.tensor = _room(self._n, image)
        if image.shape != self.tensor.shape[1:] or image.dtype != self.tensor.dtype:
            raise ValueError(
                f"the transform gave {tuple(image.shape)} {image.dtype} after {tuple(self.tensor.shape[1:])} "
                f"{self.tensor.dtype}; images of a batch must be alike"
            )
        self.tensor[self._filled] = image
        self._filled += 1


def _room(n: int, like: Tensor) -> Tensor:
    """Pixels of an image file come with the channels last; kept so, each image is one copy of consecutive bytes."""
    size, strides = (n, *like.shape), (like.numel(), *torch.empty_like(like).stride())
    if get_worker_info() is None:
        return torch.empty_strided(size, strides, dtype=like.dtype)
    storage = torch.UntypedStorage._new_shared(n * like.numel() * like.element_size())  # as torch's own collation does
    return like.new_empty(0).set_(storage, 0, size, strides)  # type: ignore[call-overload]
