"""Losses for trainers of other projects: `HnNceLoss` takes the place of open_clip's `ClipLoss`."""

from open_diht.trainer.losses.module import HnNceLoss

__all__ = ["HnNceLoss"]
