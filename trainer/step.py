"""Training steps: gradients, the check that they are finite, and the update by AdamW.

Random numbers are a function of where they are used, so a run that is resumed with the same numbers
of ranks and micro-batches draws the same ones as an undisturbed run. No generator state is kept:
torch's generators are seeded before each use, in a step from (seed, purpose, epoch, batch, rank,
part).
"""

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from open_diht.common.ranks import Ranks
from open_diht.trainer.accumulation import Losses, backward
from open_diht.trainer.config import ConceptSettings, Config, OptimizerSettings, ScheduleSettings
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.errors import TrainingError
from open_diht.trainer.layers import layer_scales
from open_diht.trainer.losses import Distillation
from open_diht.trainer.memory import remedy
from open_diht.trainer.model import Encoded, Student


class Purpose(IntEnum):
    """A use of random numbers, each with its own stream."""

    WEIGHTS = 0
    STEP = 1


def seed_for(seed: int, purpose: Purpose, *position: int) -> int:
    """Return a 63-bit seed for random numbers at a position, such as (epoch, batch, rank, part)."""
    low, high = np.random.SeedSequence((seed, int(purpose), *position)).generate_state(2)
    return (int(high) << 32 | int(low)) & (2**63 - 1)


def build_optimizer(
    student: Student, settings: OptimizerSettings, concepts: ConceptSettings
) -> torch.optim.AdamW:
    """Build AdamW, in torch's fused form, for the trained parameters. Vectors and scalars (biases,
    norms, temperature) do not decay. Concept heads have their own learning rate and weight decay.
    `layer_decay` makes a group for each learning rate."""
    heads = {id(parameter) for parameter in student.heads.parameters()}
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    scales = layer_scales(student.clip, settings.layer_decay)
    groups: dict[tuple[bool, bool, float], dict[str, Any]] = {}
    for of_head in (False, True):
        decay = settings.weight_decay * (concepts.weight_decay_factor if of_head else 1.0)
        for decayed in (True, False):
            for p in (
                p for p in trained if (id(p) in heads) == of_head and (p.ndim >= 2) == decayed
            ):
                scale = concepts.learning_rate_factor if of_head else scales.get(id(p), 1.0)
                rate = settings.learning_rate * scale
                new: dict[str, Any] = {
                    "params": [],
                    "lr": rate,
                    "base_lr": rate,
                    "weight_decay": decay if decayed else 0.0,
                }
                groups.setdefault((of_head, decayed, scale), new)["params"].append(p)
    return torch.optim.AdamW(
        [*groups.values()],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )


def rate_factor(settings: ScheduleSettings, seen: int, total: int) -> float:
    """Return the learning rate of a step as a fraction of the peak. It rises linearly in the
    warm-up. Then it follows a cosine down to `final_learning_rate`, or stays at the peak and falls
    to it linearly in the cooldown.
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


class WeightAverage:
    """A moving average of a student's weights in float32. Each finite step does a <- decay a + (1 -
    decay) w."""

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


class Diverged(TrainingError):
    """Too many steps in a row were not finite."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The result of a step. Losses and statistics are means over the global batch."""

    values: dict[str, float]
    """Values by name: loss, contrastive, one per concept head, the statistics of the contrastive
    loss, distillation."""
    gradient_norm: float
    scale: float
    """Factor of the cosine in this step."""
    finite: bool
    """True if loss and gradient were finite. Otherwise weights and optimizer are unchanged."""


@dataclass
class Skipped:
    """Counts of the steps that were not finite, and of the pairs that lacked targets that are
    learned."""

    total: int = 0
    in_a_row: int = 0
    pairs: int = 0


class Stepper:
    """The optimizer, the loss and the state that steps change. If `schedule.micro_batches` is auto,
    replace it in `Stepper.config` by a number before `settle`."""

    def __init__(
        self,
        student: Student,
        config: Config,
        ranks: Ranks,
        device: torch.device,
        distillation: Distillation | None = None,
    ):
        self.student = student
        self.config = config
        self.ranks = ranks
        self.device = device
        self.module: nn.Module = student
        """The student. With several ranks, `settle` wraps it in DDP."""
        concepts = config.concepts.weights if config.concepts.path not in ("", "auto") else {}
        self.losses = Losses(contrastive=config.loss, concepts=concepts, distillation=distillation)
        self.optimizer = build_optimizer(student, config.optimizer, config.concepts)
        self.average = WeightAverage(student, config.run.ema) if config.run.ema else None
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.run.precision == "fp16")
        self.skipped = Skipped()

    def settle(self, pairs: int, shape: Sequence[int], tokens: Tensor) -> None:
        """Wrap the student in DDP if there are several ranks, and make DDP arrange its buckets.
        After its first backward pass DDP fills buckets in the order in which gradients arrived, and
        the order in which ranks are summed depends on the position in a bucket. So after this call
        all steps, also the first one after a resume, use the same order. `tokens` are (1, context)
        ids of any caption. Raises `OutOfMemory`."""
        if self.ranks.world == 1:
            return
        ids = [self.ranks.local_rank] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            # Newer versions rename it forward_sync_buffers.
            warnings.simplefilter("ignore", FutureWarning)
            self.module = nn.parallel.DistributedDataParallel(
                self.student, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        of_part = pairs // self._parts
        with remedy(lambda: self._too_large(pairs)):
            # The shape is that of batches, so that compiled code is reused.
            kind = torch.uint8 if len(shape) == 3 else torch.float32
            images = torch.zeros(of_part, *shape, dtype=kind, device=self.device)
            found: Encoded = self.module(images, tokens.to(self.device).expand(of_part, -1))
            outputs = [found.image, found.text, found.scale, *found.concepts.values()]
            outputs += [] if found.bias is None else [found.bias]
            torch.stack([output.float().sum() for output in outputs]).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, batch: Batch, epoch: int, number: int, rate: float) -> StepResult:
        """Take a step on this rank's part of batch `number` of the epoch, at a fraction `rate` of
        the peak learning rate. Raises `Diverged` if `run.max_nonfinite` steps in a row were not
        finite, `OutOfMemory` if the batch is too large."""
        with remedy(lambda: self._too_large(len(batch))):
            return self._step(batch, epoch, number, rate)

    def _step(self, batch: Batch, epoch: int, number: int, rate: float) -> StepResult:
        scale = self.student.clip.logit_scale.detach().exp()
        statistics = self.student.statistics()
        before = [buffer.clone() for buffer in statistics]
        self.optimizer.zero_grad(set_to_none=True)
        position = (self.config.run.seed, Purpose.STEP, epoch, number)
        loss = backward(
            self.module,
            batch.to(self.device, non_blocking=True),
            self.losses,
            parts=self._parts,
            seeds=[seed_for(*position, self.ranks.rank, part) for part in range(self._parts)],
            ranks=self.ranks,
            scaler=self.scaler,
        )
        self.scaler.unscale_(self.optimizer)  # so that this is the norm of the true gradient
        clip_at = self.config.optimizer.max_gradient_norm or math.inf
        # Returns the norm before clipping.
        gradient = nn.utils.clip_grad_norm_(self.parameters, clip_at)
        named = {
            "loss": loss.total,
            "contrastive": loss.contrastive,
            **loss.concepts,
            **loss.statistics,
        }
        means = (
            self.ranks.sum(torch.stack([value.float() for value in named.values()]))
            / self.ranks.world
        )
        # A step waits for its device here, so all values are read in one transfer.
        norm, factor, *read = torch.cat(
            [torch.stack([gradient.float(), scale.float()]), means]
        ).tolist()
        values = dict(zip(named, read, strict=True))
        self.skipped.pairs += round(values.pop("without_targets", 0.0) * self.ranks.world)
        # All ranks decide alike: the loss is summed over them, and gradients were averaged.
        finite = math.isfinite(norm) and math.isfinite(values["loss"])
        if finite:  # otherwise weights, moments and average stay unchanged
            for group in self.optimizer.param_groups:
                group["lr"] = group["base_lr"] * rate
            self.scaler.step(self.optimizer)
            self.student.clamp_scale()
            if self.average is not None:
                self.average.update(self.student)
        else:
            for buffer, value in zip(statistics, before, strict=True):
                buffer.copy_(value)  # undo what the forward pass changed in batch norms
        self.scaler.update()
        self._count(finite)
        return StepResult(values=values, gradient_norm=norm, scale=factor, finite=finite)

    @property
    def _parts(self) -> int:
        parts = self.config.schedule.micro_batches
        assert parts != "auto", "the number of parts is chosen before the first step"
        return parts

    def _too_large(self, pairs: int) -> str:
        smaller = "lower schedule.batch_size in a new WORKDIR"
        parts = min(pairs, 2 * self._parts)
        if parts > self._parts and self.config.model.batch_norm == "frozen":
            # Batch norms of batches allow one part.
            smaller = (
                f"set schedule.micro_batches={parts}, which lets the same command resume from the"
                " last checkpoint, or " + smaller
            )
        return (
            f"a step needs more memory than available, with {pairs:,} pairs on each rank and"
            f" schedule.micro_batches {self._parts}: {smaller}"
        )

    def _count(self, finite: bool) -> None:
        self.skipped.in_a_row = 0 if finite else self.skipped.in_a_row + 1
        self.skipped.total += not finite
        if self.skipped.in_a_row >= self.config.run.max_nonfinite:
            raise Diverged(
                f"{self.skipped.in_a_row} steps in a row had a loss or gradient that is not finite"
                " (run.max_nonfinite); start again, or from model.safetensors of the last"
                " checkpoint (model.warm_start), in a new WORKDIR, with a lower"
                " optimizer.learning_rate or with optimizer.max_gradient_norm=1"
            )
