"""The parts of a run, from its configuration: model, data, optimiser, in the state before the first step."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from open_diht.common.command_line import WrongUse
from open_diht.common.ranks import Ranks
from open_diht.trainer.architecture import input_shape, tokenizer
from open_diht.trainer.checks import ZeroShotData, read_zero_shot
from open_diht.trainer.concepts import ConceptTargets
from open_diht.trainer.config import Config
from open_diht.trainer.data import Loader, ShardFacts
from open_diht.trainer.distillation import concept_targets
from open_diht.trainer.ema import WeightAverage
from open_diht.trainer.hardness import about_scale
from open_diht.trainer.memory import DoesNotFit, free_bytes, need
from open_diht.trainer.model import Student, build_student
from open_diht.trainer.optim import build_optimizer
from open_diht.trainer.pairs import open_pairs
from open_diht.trainer.randomness import Purpose, seed_torch
from open_diht.trainer.step import Stepper, autocast, losses_of
from open_diht.trainer.utilisation import flops_per_pair, peak_flops


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a run is made of."""

    config: Config
    ranks: Ranks
    device: torch.device
    student: Student
    architecture: dict[str, Any]
    """In open_clip's form."""
    tokenize: Any
    shape: tuple[int, ...]
    """Of what the image tower takes: (3, side, side), or (d,) of features."""
    loader: Loader
    targets: list[ConceptTargets]
    """One per data source, or none."""
    zero_shot: ZeroShotData | None
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    stepper: Stepper
    total_samples: int
    total_steps: int
    full_speed: float | None
    """Images/s of all devices at an MFU of 1; None: their peak is not known."""
    said: list[str]
    """Lines about the warm start, what was left to the program, and what is ill-advised."""

    @property
    def judged(self) -> Student:
        """The weights that are measured and exported: the average where there is one."""
        return self.student if self.average is None else self.average.student


def device_type(config: Config) -> str:
    """cpu or cuda. Raises `WrongUse` where a GPU is asked for and not there."""
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise WrongUse("run.device is cuda, but torch sees no GPU; set run.device=cpu, or auto")
    if config.run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.run.device


def prepare_torch(config: Config) -> None:
    """Threads, determinism and precision of this process."""
    run = config.run
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not run.deterministic
    torch.backends.cuda.matmul.allow_tf32 = run.tf32
    torch.backends.cudnn.allow_tf32 = run.tf32  # torch's own choice is to round in convolutions


def assemble(
    config: Config, ranks: Ranks, device: torch.device, begun: Sequence[Sequence[ShardFacts]] | None = None
) -> Parts:
    """The parts, on every rank the same weights. `concepts.path` is resolved; `begun` are the shards of a run that is
    resumed. In the configuration of the parts stands what was left to the program.

    Raises `WrongUse`, `BadArchitecture`, `BadWeights`, `DataError`, `BadZeroShotFolder`.
    """
    per_rank = _pairs_per_rank(config, ranks)
    _check_model(config, ranks)
    zero_shot = read_zero_shot(Path(config.check.zero_shot)) if config.check.zero_shot else None
    targets = concept_targets(config)
    heads = {name: targets[0].heads[name] for name in config.concepts.weights} if targets else {}
    seed_torch(config.run.seed, Purpose.WEIGHTS)
    student, architecture, said = build_student(config.model, config.concepts, heads)
    student.to(device)
    shape, tokenize = input_shape(student.clip, architecture), tokenizer(architecture)
    loader = open_pairs(
        config.data,
        config.transform,
        shape,
        training=True,
        concepts=targets,
        begun=begun,
        batch_size=per_rank,
        rank=ranks.rank,
        world=ranks.world,
        seed=config.run.seed,
        tokenizer=tokenize,
        device=device,
    )
    _check_holdout(config, loader)
    config = replace(config, data=replace(config.data, streams=loader.streams))
    optimizer = build_optimizer(student, config.optimizer, config.concepts)
    average = WeightAverage(student, config.run.ema) if config.run.ema else None
    chosen = []
    if config.schedule.micro_batches == "auto":
        parts, text = _fitting(student, config, ranks, device, shape, tokenize, per_rank)
        config = replace(config, schedule=replace(config.schedule, micro_batches=parts))
        chosen.append(text)
    schedule = config.schedule
    samples = schedule.samples or math.ceil((schedule.epochs or 0) * loader.samples_per_epoch)
    steps = math.ceil(samples / schedule.batch_size)
    remarks = (about_scale(config, steps), _about_precision(config, device), config.loss.remark(device))
    chosen += [remark for remark in remarks if remark]
    rounds = config.run.precision == "fp32" and config.run.tf32
    peak = peak_flops(device, "tf32" if rounds else config.run.precision, config.log.peak_tflops)
    full_speed = None
    if peak is not None:
        student.train()
        full_speed = ranks.world * peak / flops_per_pair(student, shape, tokenize(["a caption"]))
    if config.model.compile:
        student.compile()
    stepper = Stepper(
        student=student,
        module=_parallel(student, ranks, device),
        optimizer=optimizer,
        losses=losses_of(config),
        config=config,
        ranks=ranks,
        device=device,
        average=average,
    )
    stepper.settle(per_rank, shape, tokenize(["a caption"]))
    return Parts(
        config=config,
        ranks=ranks,
        device=device,
        student=student,
        architecture=architecture,
        tokenize=tokenize,
        shape=shape,
        loader=loader,
        targets=targets,
        zero_shot=zero_shot,
        optimizer=optimizer,
        average=average,
        stepper=stepper,
        total_samples=samples,
        total_steps=steps,
        full_speed=full_speed,
        said=[*(f"warm start: {text}" for text in said), *chosen, *loader.remarks],
    )


def _about_precision(config: Config, device: torch.device) -> str:
    """A line where a GPU does not compute in the precision itself."""
    if device.type != "cuda" or config.run.precision != "bf16":
        return ""
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return ""
    return f"run.precision bf16 is emulated on {torch.cuda.get_device_name(device)}, slowly: it computes in fp16"


def _pairs_per_rank(config: Config, ranks: Ranks) -> int:
    size, parts = config.schedule.batch_size, config.schedule.micro_batches
    if size % ranks.world:
        raise WrongUse(f"schedule.batch_size {size} cannot be divided over {ranks.world} ranks")
    if not config.data.drop_last:
        raise WrongUse("data.drop_last is false: all ranks need batches of one size, so leave it true")
    if parts != "auto" and parts > size // ranks.world:
        raise WrongUse(f"schedule.micro_batches {parts} is more than the {size // ranks.world} pairs of a rank")
    return size // ranks.world


def _check_model(config: Config, ranks: Ranks) -> None:
    """Raises `WrongUse` where settings of the model do not go with others."""
    if config.model.batch_norm == "batch" and (ranks.world > 1 or config.schedule.micro_batches != 1):
        raise WrongUse(
            f"model.batch_norm is batch, with {ranks.world} ranks and schedule.micro_batches "
            f"{config.schedule.micro_batches}: statistics would be of parts of a batch; use one process and one part"
        )
    if config.check.zero_shot and config.data.features:
        raise WrongUse(f"check.zero_shot {config.check.zero_shot} needs images; leave it out with data.features")


def _check_holdout(config: Config, loader: Loader) -> None:
    """Raises `WrongUse` where a check would find no held-out pairs of a source, after hours."""
    split = config.data.split
    if not config.check.retrieval_samples or not split.holdout or split.part != "train":
        return
    without = [source.path for source in loader.sources if not source.others]
    if not loader.held_out:
        without = without or [config.data.features]
    if without:
        raise WrongUse(
            f"data.split.holdout {split.holdout:g} holds out no pair of {without[0]}: raise it, or set it, or "
            "check.retrieval_samples, to 0"
        )


def _fitting(
    student: Student,
    config: Config,
    ranks: Ranks,
    device: torch.device,
    shape: tuple[int, ...],
    tokenize: Any,
    pairs: int,
) -> tuple[int, str]:
    """The micro-batches that fit on all ranks, and a line that says why. Raises `WrongUse`."""
    student.train()
    needed = need(student, shape, tokenize(["a caption"]), pairs, ranks.world, partial(autocast, config, device))
    free = min(ranks.collect(free_bytes(device)))
    try:
        parts = needed.parts(pairs, free)
    except DoesNotFit as error:
        raise WrongUse(f"schedule.micro_batches auto: {error}") from error
    return parts, (
        f"schedule.micro_batches auto: {parts} of {-(-pairs // parts):,} pairs on each rank; a pair keeps "
        f"{needed.per_pair / 2**20:.3g} MiB, {free / 2**30:.3g} GiB are free"
    )


def _parallel(student: Student, ranks: Ranks, device: torch.device) -> nn.Module:
    if ranks.world == 1:
        return student
    ids = [ranks.local_rank] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer torch would call it forward_sync_buffers
        return DistributedDataParallel(student, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


def introduction(parts: Parts) -> str:
    """One line about a run."""
    config, loader = parts.config, parts.loader
    trained = sum(p.numel() for p in parts.student.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in parts.student.parameters())
    bad = [f"{count} {kind}" for kind, count in loader.counts.items() if kind != "ok" and count]
    return (
        f"{everything / 1e6:.1f} M weights, {trained / 1e6:.1f} M of them trained; "
        f"{loader.samples_per_epoch:,} pairs per epoch in {loader.batches_per_epoch:,} batches of "
        f"{config.schedule.batch_size:,} from {loader.streams or 'no'} streams; "
        f"{parts.total_steps:,} steps, {parts.total_samples:,} samples; "
        f"{parts.ranks.world} x {parts.device.type}, {config.run.precision}"
        + (f"; left out: {', '.join(bad)}" if bad else "")
    )
