"""The losses over pairs, by name, and the losses of distillation: from concepts and from
embeddings."""

from open_diht.trainer.losses.distillation import Distillation
from open_diht.trainer.losses.hn_nce import HnNce, InfoNce
from open_diht.trainer.losses.loss import Loss, Statistics, concept_loss
from open_diht.trainer.losses.registry import LOSSES, loss_of, register
from open_diht.trainer.losses.rows import duplicates
from open_diht.trainer.losses.siglip import SigLip

__all__ = [
    "LOSSES",
    "Distillation",
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
