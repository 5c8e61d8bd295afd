"""Stored embeddings of a two-tower teacher, which a student learns without the teacher."""

from open_diht.trainer.embeddings.targets import EmbeddingTargets, ShardEmbeddings, open_embeddings

__all__ = ["EmbeddingTargets", "ShardEmbeddings", "open_embeddings"]
