"""Small towers: a network for small images, a head on cached features, and a bag of words.

The configurations of the claims name them by import path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from study.word_tokens import WordTokenizer


class ConvNet(nn.Module):
    """A network from images (b, 3, side, side) to embeddings (b, embed_dim): stages of a 3 x 3
    convolution with stride 2, batch norm and ReLU, then a mean over positions and a linear map."""

    def __init__(
        self, embed_dim: int, *, image_size: int, widths: Sequence[int] = (32, 64, 128, 256)
    ):
        super().__init__()
        self.input_shape = (3, image_size, image_size)
        stages = list[nn.Module]()
        last = 3
        for width in widths:
            stages += [
                nn.Conv2d(last, width, 3, 2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(True),
            ]
            last = width
        self.trunk = nn.Sequential(*stages)
        self.projection = nn.Linear(last, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings. Images are converted to channels last, which is faster on a
        CPU."""
        seen = self.trunk(images.contiguous(memory_format=torch.channels_last))
        return self.projection(seen.mean(dim=(2, 3)))


class FeatureMlp(nn.Module):
    """A head from features (b, width), best standardized before they are stored, to embeddings (b,
    embed_dim): the sum of an MLP with one hidden layer and a linear map."""

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


class BagOfWords(nn.Module):
    """A network from word ids (b, context) to embeddings (b, embed_dim): an MLP on the mean of the
    word vectors."""

    def __init__(
        self,
        embed_dim: int,
        *,
        vocab_size: int,
        context_length: int,
        words: Sequence[str],
        width: int = 128,
        hidden: int = 256,
    ):
        super().__init__()
        self.context_length = context_length
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        # Larger initial vectors would hardly change in short runs.
        nn.init.normal_(self.embedding.weight, std=0.02)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, embed_dim)
        )

    @staticmethod
    def tokenizer(settings: Mapping[str, Any]) -> WordTokenizer:
        """Return the tokenizer of a text_cfg, whose `words` are the vocabulary in the order of
        their ids."""
        return WordTokenizer(settings["words"], settings["context_length"])

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings. The mean of a caption without words is zero."""
        words = (ids != 0).sum(dim=1, keepdim=True).clamp(min=1)
        return self.mlp(self.embedding(ids).sum(dim=1) / words)
