"""AdamW with its parameter groups, the learning rate as a function of samples seen, and the average of the weights."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from open_diht.trainer.config import ConceptSettings, OptimizerSettings, ScheduleSettings
from open_diht.trainer.model import Student


def build_optimizer(student: Student, settings: OptimizerSettings, concepts: ConceptSettings) -> torch.optim.AdamW:
    """Build AdamW, in torch's fused form, for the trained parameters.

    Parameters of two or more dimensions are decayed; vectors and scalars (biases, norms, temperature) are not. Concept
    heads have their own learning rate and weight decay.
    """
    heads = {id(parameter) for parameter in student.heads.parameters()}
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    groups = []
    for of_head in (False, True):
        rate = settings.learning_rate * (concepts.learning_rate_factor if of_head else 1.0)
        decay = settings.weight_decay * (concepts.weight_decay_factor if of_head else 1.0)
        for decayed in (True, False):
            members = [p for p in trained if (id(p) in heads) == of_head and (p.ndim >= 2) == decayed]
            if members:
                groups.append(
                    {"params": members, "lr": rate, "base_lr": rate, "weight_decay": decay if decayed else 0.0}
                )
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps, fused=True)


def rate_factor(settings: ScheduleSettings, seen: int, total: int) -> float:
    """Return the learning rate of a step as a fraction of the peak.

    It rises linearly in the warm-up. Then it follows a cosine down to `final_learning_rate`, or stays at the peak and
    falls to it linearly in the cooldown.
    """
    warmup = min(settings.warmup_samples, total)
    if seen < warmup:
        return min(1.0, (seen + settings.batch_size) / warmup)
    low = settings.final_learning_rate
    if settings.shape == "constant":
        cooldown = min(settings.cooldown * total, total - warmup)
        return low + (1 - low) * min(1.0, (total - seen) / cooldown) if cooldown else 1.0
    progress = (seen - warmup) / max(1, total - warmup)
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to a fraction of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def gradient_norm(parameters: list[nn.Parameter], clip_at: float | None) -> torch.Tensor:
    """Clip the gradients to a norm (None: no clipping), and return their norm before clipping, a scalar."""
    return torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip_at is None else clip_at)


class WeightAverage:
    """A moving average of a student's weights in float32. Each finite step updates it: a <- decay a + (1 - decay) w."""

    def __init__(self, student: Student, decay: float):
        self.decay = decay
        self.student = copy.deepcopy(student).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, student: Student) -> None:
        """Update the average with the weights after a step."""
        averages = [p.data for p in self.student.parameters()]
        weights = [p.detach() for p in student.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - self.decay)
        for mine, theirs in zip(self.student.buffers(), student.buffers(), strict=True):
            mine.copy_(theirs)  # buffers are copied, not averaged
