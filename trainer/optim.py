"""AdamW with its parameter groups, and the learning rate as a function of samples seen."""

from __future__ import annotations

import math

import torch
from torch import nn

from open_diht.trainer.config import ConceptSettings, OptimizerSettings, ScheduleSettings
from open_diht.trainer.model import Student


def build_optimizer(student: Student, settings: OptimizerSettings, concepts: ConceptSettings) -> torch.optim.AdamW:
    """AdamW, in torch's fused form, over what is trained: matrices with decay, vectors and scalars (biases, norms,
    temperature) without, and the concept heads the same with a learning rate and decay of their own."""
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
    """Proportion of the peak learning rate for the step that starts after `seen` samples of `total`: linear warm-up,
    then a cosine down to `final_learning_rate`; or the peak, and at the end a line down to it."""
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
    """Scale every group's own peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def gradient_norm(parameters: list[nn.Parameter], clip_at: float | None) -> torch.Tensor:
    """Norm of all gradients together, before they are scaled down to `clip_at`."""
    return torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip_at is None else clip_at)
