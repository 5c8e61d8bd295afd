"""Stored embeddings of a two-tower teacher, which a student learns without the teacher."""

from open_diht.trainer.embeddings.opening import open_embeddings
from open_diht.trainer.embeddings.targets import EmbeddingTargets, ShardEmbeddings

__all__ = ["EmbeddingTargets", "ShardEmbeddings", "open_embeddings"]
