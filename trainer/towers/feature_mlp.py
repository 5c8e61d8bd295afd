"""A head on cached features of images."""

from __future__ import annotations

from torch import Tensor, nn


class FeatureMlp(nn.Module):
    """(b, width) features to (b, embed_dim): an MLP of one hidden layer beside a linear map, whose sum it is. Features
    are best standardised before they are stored."""

    def __init__(self, embed_dim: int, *, width: int, hidden: int = 512, dropout: float = 0.0):
        super().__init__()
        self.input_shape = (width,)
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, embed_dim))
        self.linear = nn.Linear(width, embed_dim)

    def forward(self, features: Tensor) -> Tensor:
        """The same dropped inputs go both ways."""
        dropped = self.dropout(features)
        return self.mlp(dropped) + self.linear(dropped)
