"""What the model learns from: the contrastive loss with hard negatives, and the concept loss."""

from trainer.losses.concepts import concept_loss
from trainer.losses.contrastive import ContrastiveLoss, ContrastiveStats
from trainer.losses.hn_nce import RowLosses, hn_nce_rows, infonce_rows

__all__ = ["ContrastiveLoss", "ContrastiveStats", "RowLosses", "concept_loss", "hn_nce_rows", "infonce_rows"]
