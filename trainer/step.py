"""One training step: gradients, the check that they are finite, the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from open_diht.common.ranks import Ranks
from open_diht.trainer.accumulation import BatchLoss, Losses, backward
from open_diht.trainer.config import Config
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.ema import WeightAverage
from open_diht.trainer.memory import remedy
from open_diht.trainer.model import Encoded, Student
from open_diht.trainer.optim import gradient_norm, set_rate
from open_diht.trainer.pixels import Pixels
from open_diht.trainer.randomness import Purpose, seed_torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(RuntimeError):
    """Too many steps in a row were not finite."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Means over the global batch."""

    values: dict[str, float]
    """loss, contrastive, one per concept head, and the statistics of the contrastive loss."""
    gradient_norm: float
    scale: float
    """Factor of the cosine that the step used."""
    finite: bool
    """The step was taken; else weights and optimiser are as before."""


@dataclass
class Skipped:
    """Steps that were not finite."""

    total: int = 0
    in_a_row: int = 0


def losses_of(config: Config) -> Losses:
    """The losses a configuration asks for; concept heads where targets are given."""
    return Losses(
        contrastive=config.loss,
        concepts=config.concepts.weights if config.concepts.path not in ("", "auto") else {},
    )


def autocast(config: Config, device: torch.device) -> AbstractContextManager[None]:
    """The encoders' precision."""
    dtype = _DTYPES.get(config.run.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@dataclass(kw_only=True)
class Stepper:
    """Takes steps. `module` is the student, or DDP around it."""

    student: Student
    module: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Losses
    config: Config
    ranks: Ranks
    device: torch.device
    average: WeightAverage | None = None
    skipped: Skipped = field(default_factory=Skipped)

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.run.precision == "fp16")
        self.pixels = Pixels(self.config.transform, self.device)
        """Images of batches to the encoder's input."""

    def autocast(self) -> AbstractContextManager[None]:
        """The encoders' precision."""
        return autocast(self.config, self.device)

    def settle(self, pairs: int, shape: Sequence[int], tokens: Tensor) -> None:
        """Have DDP arrange its buckets before the first step, of `pairs` pairs on this rank; `shape`: of what the image
        tower takes; `tokens` (1, context): of any caption.

        DDP fills buckets in the order in which gradients came in its first backward pass, from the second one on, and
        in which order ranks are summed depends on the place in a bucket. After this all steps sum alike, also the first
        one after a resume. Raises `OutOfMemory`.
        """
        if self.module is self.student:
            return
        of_part = pairs // self._parts
        with remedy(lambda: self._too_large(pairs)):
            images = torch.zeros(of_part, *shape, device=self.device)
            with self.autocast():
                found: Encoded = self.module(images, tokens.to(self.device).expand(of_part, -1))
            outputs = [found.image, found.text, found.scale, *found.concepts.values()]
            outputs += [] if found.bias is None else [found.bias]
            torch.stack([output.float().sum() for output in outputs]).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, batch: Batch, epoch: int, number: int, rate: float) -> StepResult:
        """One step on batch `number` of an epoch, this rank's part of it, with `rate` times the peak learning rates.

        Raises `Diverged` when `run.max_nonfinite` steps in a row had a loss or gradient that was not finite, and
        `OutOfMemory`.
        """
        with remedy(lambda: self._too_large(len(batch))):
            return self._step(batch, epoch, number, rate)

    def _step(self, batch: Batch, epoch: int, number: int, rate: float) -> StepResult:
        scale = self.student.clip.logit_scale.detach().exp()
        statistics = self.student.statistics()
        before = [buffer.clone() for buffer in statistics]
        self.optimizer.zero_grad(set_to_none=True)
        loss = backward(
            self.module,
            self.student,
            batch.to(self.device, non_blocking=True),
            self.losses,
            parts=self._parts,
            ranks=self.ranks,
            seed_part=self._seeder(epoch, number),
            scaler=self.scaler,
            autocast=self.autocast,
            pixels=self.pixels,
        )
        self.scaler.unscale_(self.optimizer)
        gradient = gradient_norm(self.parameters, self.config.optimizer.max_gradient_norm)
        norm, factor, values = self._read(loss, gradient, scale)
        # Norm and loss are the same on all ranks: the loss is summed over them, gradients were averaged.
        finite = math.isfinite(norm) and math.isfinite(values["loss"])
        if finite:
            set_rate(self.optimizer, rate)
            self.scaler.step(self.optimizer)
            self.student.clamp_scale()
            if self.average is not None:
                self.average.update(self.student)
        else:
            for buffer, value in zip(statistics, before, strict=True):
                buffer.copy_(value)
        self.scaler.update()
        self._count(finite)
        return StepResult(values=values, gradient_norm=norm, scale=factor, finite=finite)

    @property
    def _parts(self) -> int:
        parts = self.config.schedule.micro_batches
        assert parts != "auto", "the number of parts is chosen before the first step"
        return parts

    def _too_large(self, pairs: int) -> str:
        return (
            f"a step needs more memory than there is, with {pairs:,} pairs on each rank and schedule.micro_batches "
            f"{self._parts}: set schedule.micro_batches={min(pairs, 2 * self._parts)}, or lower schedule.batch_size; "
            "the same command goes on from the last checkpoint"
        )

    def _seeder(self, epoch: int, number: int) -> Callable[[int], None]:
        def seed(part: int) -> None:
            seed_torch(self.config.run.seed, Purpose.STEP, epoch, number, self.ranks.rank, part)

        return seed

    def _read(self, loss: BatchLoss, gradient: Tensor, scale: Tensor) -> tuple[float, float, dict[str, float]]:
        """Norm of the gradient, scale, and the means over ranks of the losses: the one time that a step waits for its
        device."""
        named: dict[str, Tensor] = {
            "loss": loss.total,
            "contrastive": loss.contrastive,
            **loss.concepts,
            **loss.statistics,
        }
        means = self.ranks.sum(torch.stack([value.float() for value in named.values()])) / self.ranks.world
        norm, factor, *values = torch.cat([torch.stack([gradient.float(), scale.float()]), means]).tolist()
        return norm, factor, dict(zip(named, values, strict=True))

    def _count(self, finite: bool) -> None:
        self.skipped.in_a_row = 0 if finite else self.skipped.in_a_row + 1
        self.skipped.total += not finite
        if self.skipped.in_a_row >= self.config.run.max_nonfinite:
            raise Diverged(
                f"{self.skipped.in_a_row} steps in a row had a loss or gradient that is not finite (run.max_nonfinite)"
                "; the last good checkpoint is kept: go on from it with a lower optimizer.learning_rate, or with "
                "optimizer.max_gradient_norm=1, in a new WORKDIR with model.warm_start"
            )
