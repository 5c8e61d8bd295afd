"""From pixels as they travel, uint8, to what the encoders see.

Workers hand out bytes, a quarter of what float32 takes in shared memory and on the way to a GPU; the arithmetic that
follows a crop is done on the device. It is that of torchvision's `ToTensor` and `Normalize`, operation by operation, so
the result has the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from open_diht.trainer.config import TransformSettings


class Pixels:
    """Normalises images on a device."""

    def __init__(self, settings: TransformSettings, device: torch.device | str):
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
            for values in (settings.mean, settings.std)
        )
        # A tensor: CUDA multiplies by the reciprocal of a plain number, which rounds differently.
        self._white = torch.tensor(255.0, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """(b, 3, h, w) float32, contiguous, of uint8 pixels in any layout; anything but uint8 as it is."""
        if images.dtype != torch.uint8:
            return images
        scaled = images.to(torch.float32, memory_format=torch.contiguous_format).div_(self._white)
        return scaled.sub_(self._mean).div_(self._std)
