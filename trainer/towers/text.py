"""Small text towers. Token ids are words or BPE tokens, and id 0 is taken for padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _embedding(vocab_size: int, width: int) -> nn.Embedding:
    """Return an embedding with small initial vectors: large ones would hardly change in short runs."""
    embedding = nn.Embedding(vocab_size, width, padding_idx=0)
    nn.init.normal_(embedding.weight, std=0.02)
    with torch.no_grad():
        embedding.weight[0] = 0
    return embedding


class BagOfWords(nn.Module):
    """A network from ids (b, context) to embeddings (b, embed_dim): an MLP on the mean of the word vectors."""

    def __init__(self, embed_dim: int, *, vocab_size: int, context_length: int, width: int = 128, hidden: int = 256):
        super().__init__()
        self.context_length = context_length
        self.embedding = _embedding(vocab_size, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, embed_dim))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings. The mean of a caption without words is zero."""
        words = (ids != 0).sum(dim=1, keepdim=True).clamp(min=1)
        return self.mlp(self.embedding(ids).sum(dim=1) / words)


class WordTransformer(nn.Module):
    """A network from ids (b, context) to embeddings (b, embed_dim).

    It is a pre-norm transformer over word and position vectors, then a linear map of its mean over
    the caption's words.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        vocab_size: int,
        context_length: int,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        hidden: int = 512,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.context_length = context_length
        self.embedding = _embedding(vocab_size, width)
        self.places = nn.Parameter(0.01 * torch.randn(context_length, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, hidden, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, embed_dim)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings. A caption without words attends to its padding."""
        padding = ids == 0
        padding = padding & ~padding.all(dim=1, keepdim=True)  # attention to nothing would be NaN
        seen = self.embedding(ids) + self.places[: ids.shape[1]]
        for block in self.blocks:
            seen = block(seen, src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(2)
        return self.projection((self.norm(seen) * kept).sum(dim=1) / kept.sum(dim=1))
