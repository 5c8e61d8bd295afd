"""The losses over pairs, by name, and the concept loss."""

from open_diht.trainer.losses.hn_nce import HnNce, InfoNce
from open_diht.trainer.losses.loss import Loss, Statistics, concept_loss
from open_diht.trainer.losses.registry import LOSSES, loss_of, register
from open_diht.trainer.losses.rows import duplicates
from open_diht.trainer.losses.siglip import SigLip

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
