"""What the model learns from: losses over pairs, by name, and the concept loss."""

from trainer.losses.concepts import concept_loss
from trainer.losses.hn_nce import HnNce
from trainer.losses.infonce import InfoNce
from trainer.losses.loss import Loss, Statistics
from trainer.losses.registry import LOSSES, loss_of, register
from trainer.losses.rows import duplicates
from trainer.losses.siglip import SigLip

__all__ = [
    "LOSSES",
    "HnNce",
    "InfoNce",
    "Loss",
    "SigLip",
    "Statistics",
    "concept_loss",
    "duplicates",
    "loss_of",
    "register",
]
