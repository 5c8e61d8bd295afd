"""Small image towers: a network for small images, and a head on cached features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """A network from images (b, 3, side, side) to embeddings (b, embed_dim).

    It has stages of a 3 x 3 convolution with stride 2, batch norm and ReLU, then a mean over
    positions and a linear map.
    """

    def __init__(self, embed_dim: int, *, image_size: int, widths: Sequence[int] = (32, 64, 128, 256)):
        super().__init__()
        self.input_shape = (3, image_size, image_size)
        stages, last = list[nn.Module](), 3
        for width in widths:
            stages += [nn.Conv2d(last, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
            last = width
        self.trunk = nn.Sequential(*stages)
        self.projection = nn.Linear(last, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings. Images are converted to channels last, which is faster on a CPU."""
        seen = self.trunk(images.contiguous(memory_format=torch.channels_last))
        return self.projection(seen.mean(dim=(2, 3)))


class FeatureMlp(nn.Module):
    """A head from features (b, width), best standardized before they are stored, to embeddings (b, embed_dim).

    It is the sum of an MLP with one hidden layer and a linear map.
    """

    def __init__(self, embed_dim: int, *, width: int, hidden: int = 512, dropout: float = 0.0):
        super().__init__()
        self.input_shape = (width,)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, embed_dim))
        self.linear = nn.Linear(width, embed_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Return the embeddings. MLP and linear map share one dropout mask."""
        dropped = self.dropout(features)
        return self.mlp(dropped) + self.linear(dropped)
