"""The parts of a run, assembled from its configuration in the state before the first step."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from open_diht.common.command_line import WrongUse
from open_diht.common.ranks import Ranks
from open_diht.trainer.architecture import input_shape, tokenizer
from open_diht.trainer.config import Config
from open_diht.trainer.data import Loader, ShardFacts
from open_diht.trainer.data.files import read_zero_shot
from open_diht.trainer.inputs import (
    about_targets,
    concept_targets,
    distillation_of,
    embedding_targets,
    open_pairs,
)
from open_diht.trainer.losses.hn_nce import HnNce, fitting_scale
from open_diht.trainer.memory import free_bytes, need
from open_diht.trainer.model import Student, build_student
from open_diht.trainer.step import Purpose, Stepper, seed_for
from open_diht.trainer.utilization import flops_per_pair, peak_flops


class Parts:
    """The parts of a run, on every rank with the same weights. `concepts.path` of the configuration
    must be resolved. For a resumed run, `begun` lists the shards that it began with, by source; its
    checkpoint holds all weights, so no warm start is read. Raises `WrongUse` if settings contradict
    each other, the data or the memory, `OutOfMemory` if a batch is too large for several ranks, and
    the errors of the model, the data and their stores."""

    def __init__(
        self,
        config: Config,
        ranks: Ranks,
        device: torch.device,
        begun: Sequence[Sequence[ShardFacts]] | None = None,
    ):
        self.ranks = ranks
        self.device = device
        pairs = _pairs_per_rank(config, ranks)
        check = config.check
        self.zero_shot = read_zero_shot(Path(check.zero_shot)) if check.zero_shot else None
        self.targets = concept_targets(config)
        """Concept targets of each data source; empty without distillation."""
        self.embeddings = embedding_targets(config)
        """Stored embeddings of each data source; empty without their distillation."""
        heads = (
            {name: self.targets[0].heads[name] for name in config.concepts.weights}
            if self.targets
            else {}
        )
        # All ranks then begin with the same weights.
        torch.manual_seed(seed_for(config.run.seed, Purpose.WEIGHTS))
        self.student, self.architecture, started = build_student(
            config.model,
            config.concepts,
            heads,
            config.transform,
            config.run.precision,
            resumed=begun is not None,
        )
        self.student.to(device)
        self.tokenize = tokenizer(self.architecture)
        self.shape = input_shape(self.student.clip, self.architecture)
        """Shape of the image tower's input: (3, side, side), or (d,) for features."""
        if check.zero_shot and len(self.shape) != 3:
            raise WrongUse(
                f"check.zero_shot {check.zero_shot} needs images; the image tower takes features:"
                " leave it out"
            )
        self.loader = open_pairs(
            config.data,
            config.transform,
            self.shape,
            training=True,
            concepts=self.targets,
            embeddings=self.embeddings,
            begun=begun,
            batch_size=pairs,
            rank=ranks.rank,
            world=ranks.world,
            seed=config.run.seed,
            tokenizer=self.tokenize,
            device=device,
        )
        _check_holdout(config, self.loader)
        config = replace(
            config, data=replace(config.data, streams=self.loader.streams or config.data.streams)
        )
        self.stepper = Stepper(
            self.student, config, ranks, device, distillation_of(config, self.embeddings)
        )
        tokens = self.tokenize(["a caption"] * (2 if config.data.negatives else 1))
        remarks = []
        if begun is None:  # a resumed run has the same ones
            remarks += about_targets(self.loader, ranks, config.distillation.max_missing_share)
        if config.schedule.micro_batches == "auto":
            wide = self.embeddings[0].dimension if self.embeddings else 0
            needed = need(self.student.train(), self.shape, tokens, pairs, ranks.world, wide)
            free = min(ranks.collect(free_bytes(device)))
            parts = needed.parts(pairs, free)
            config = replace(config, schedule=replace(config.schedule, micro_batches=parts))
            remarks.append(
                f"schedule.micro_batches auto: {parts} of {-(-pairs // parts):,} pairs on each"
                f" rank; a pair keeps {needed.per_pair / 2**20:.3g} MiB, {free / 2**30:.3g} GiB are"
                " free"
            )
        self.config = self.stepper.config = config
        """The configuration, completed by the numbers of streams and micro-batches that the program
        chose."""
        schedule = config.schedule
        samples = schedule.samples or math.ceil(
            (schedule.epochs or 0) * self.loader.samples_per_epoch
        )
        self.total_samples = samples
        self.total_steps = math.ceil(samples / schedule.batch_size)
        remarks += [
            _about_rounding(config, self.total_samples, self.total_steps),
            about_scale(config, self.total_steps),
            _about_precision(config, device),
            config.loss.remark(device),
        ]
        # Then the encoders compute in tf32.
        rounds = config.run.precision == "fp32" and config.run.tf32
        peak = peak_flops(
            device, "tf32" if rounds else config.run.precision, config.log.peak_tflops
        )
        self.full_speed: float | None = None
        """Images/s of all devices at an MFU of 1. None means that their peak is unknown."""
        if peak is not None:
            self.full_speed = (
                ranks.world * peak / flops_per_pair(self.student.train(), self.shape, tokens)
            )
        if config.model.compile:
            self.student.compile()
        self.stepper.settle(pairs, self.shape, tokens[:1])
        self.said = [
            *(f"warm start: {text}" for text in started),
            *filter(None, remarks),
            *self.loader.remarks,
        ]
        """Lines to report before the first step."""

    @property
    def evaluated(self) -> Student:
        """The student to measure and export: the weight average if there is one."""
        return self.student if self.stepper.average is None else self.stepper.average.student


def device_type(config: Config) -> str:
    """Return cpu or cuda. Raises `WrongUse` if `run.device` is cuda and there is no GPU."""
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise WrongUse("run.device is cuda, but torch sees no GPU; set run.device=cpu, or auto")
    if config.run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.run.device


def prepare_torch(config: Config) -> None:
    """Set threads, determinism and precision of this process."""
    run = config.run
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not run.deterministic
    torch.backends.cuda.matmul.allow_tf32 = run.tf32
    torch.backends.cudnn.allow_tf32 = run.tf32  # torch rounds in convolutions by default


def about_scale(config: Config, steps: int) -> str:
    """Return a warning if the initial scale is too high for the loss and the run too short to lower
    it, or "" if not. In a short run the scale stays about where it starts: a step of AdamW changes
    its logarithm by about the learning rate, which a cosine schedule halves on average."""
    if not isinstance(config.loss, HnNce) or config.model.warm_start:
        return ""  # a warm start brings a scale that was learned
    beta = config.loss.constants[1]
    scale = 1 / config.model.temperature
    fitting = fitting_scale(beta)
    reach = config.optimizer.learning_rate * steps / 2
    if not beta or math.log(scale / fitting) <= reach + 0.01:
        # 1 % of tolerance, for rounded settings.
        return ""
    return (
        f"loss.beta {beta:g} at model.temperature {config.model.temperature:g}, a scale of"
        f" {scale:.3g}: {steps:,} steps can change it by a factor of about {math.exp(reach):.3g},"
        f" and hard negatives would weigh too much; model.temperature={1 / fitting:.2g} (a scale of"
        f" {fitting:.3g}) starts lower, or loss.beta=0 does without"
    )


def _about_precision(config: Config, device: torch.device) -> str:
    """Return a warning if the GPU only emulates bf16, otherwise ""."""
    if device.type != "cuda" or config.run.precision != "bf16":
        return ""
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return ""
    return (
        f"run.precision bf16 is emulated on {torch.cuda.get_device_name(device)}, slowly; set"
        " run.precision=fp16"
    )


def _about_rounding(config: Config, samples: int, steps: int) -> str:
    """Return a warning if whole batches read more samples than were selected, otherwise ""."""
    if not config.data.selection or not (more := steps * config.schedule.batch_size - samples):
        return ""
    return (
        f"{samples:,} samples do not fill batches of {config.schedule.batch_size:,}: the run reads"
        f" {more:,} more, from the next reading of the selection"
    )


def _pairs_per_rank(config: Config, ranks: Ranks) -> int:
    """Return the number of pairs of a batch on each rank. Raises `WrongUse` if settings contradict
    each other."""
    size = config.schedule.batch_size
    parts = config.schedule.micro_batches
    if size % ranks.world:
        raise WrongUse(f"schedule.batch_size {size} cannot be divided over {ranks.world} ranks")
    if not config.data.drop_last:
        raise WrongUse(
            "data.drop_last is false: all ranks need batches of one size, so leave it true"
        )
    if parts != "auto" and parts > size // ranks.world:
        raise WrongUse(
            f"schedule.micro_batches {parts} is more than the {size // ranks.world} pairs of a rank"
        )
    if config.model.batch_norm == "batch" and (
        ranks.world > 1 or config.schedule.micro_batches != 1
    ):
        raise WrongUse(
            f"model.batch_norm is batch, with {ranks.world} ranks and schedule.micro_batches"
            f" {config.schedule.micro_batches}: statistics would cover only parts of a batch; use"
            " one process and schedule.micro_batches=1"
        )
    return size // ranks.world


def _check_holdout(config: Config, loader: Loader) -> None:
    """Raise `WrongUse` if a source has no held-out pairs for a check. Otherwise this would only
    show after hours."""
    split = config.data.split
    if not config.check.retrieval_samples or not split.holdout or split.part != "train":
        return
    without = [source.path for source in loader.sources if not source.others]
    if not loader.held_out:
        without = without or [config.data.path]  # `data.loader` has no sources
    if without:
        raise WrongUse(
            f"data.split.holdout {split.holdout:g} holds out no pair of {without[0]}: raise it, or"
            " set it, or check.retrieval_samples, to 0"
        )


def introduction(parts: Parts) -> str:
    """Return one line that describes a run: weights, data, length and devices."""
    config = parts.config
    loader = parts.loader
    trained = sum(p.numel() for p in parts.student.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in parts.student.parameters())
    bad = [f"{count} {kind}" for kind, count in loader.counts.items() if kind != "ok" and count]
    return (
        f"{everything / 1e6:.1f} M weights, {trained / 1e6:.1f} M of them trained;"
        f" {loader.samples_per_epoch:,} pairs per epoch in {loader.batches_per_epoch:,} batches of"
        f" {config.schedule.batch_size:,}"
        f"{f' from {loader.streams} streams' if loader.streams else ''};"
        f" {parts.total_steps:,} steps, {parts.total_samples:,} samples; {parts.ranks.world} x"
        f" {parts.device.type}, {config.run.precision}"
        + (f"; left out: {', '.join(bad)}" if bad else "")
    )
