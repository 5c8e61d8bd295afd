"""An exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch

from open_diht.trainer.model import Student


class WeightAverage:
    """Float32 average of a student's weights, updated after each step: a <- decay a + (1 - decay) w."""

    def __init__(self, student: Student, decay: float):
        self.decay = decay
        self.student = copy.deepcopy(student).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, student: Student) -> None:
        """Take in the weights after a step."""
        averages = [p.data for p in self.student.parameters()]
        weights = [p.detach() for p in student.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - self.decay)
        for mine, theirs in zip(self.student.buffers(), student.buffers(), strict=True):
            mine.copy_(theirs)
