"""`train(config, workdir)`: a run from its configuration to an exported model, and on from wherever it was stopped.

    WORKDIR/config.yaml     the configuration
    WORKDIR/checkpoints/    see `checkpoint`
    WORKDIR/log.jsonl       one line per progress line, check and event
    WORKDIR/tensorboard/    the same as curves
    WORKDIR/export/         the model for open_clip, with its card

A step is a function of weights, optimiser state, and its number: batch, augmentation and dropout follow from the seed
and the number. So a run that was killed and started again ends with the bits of one that was not (on a CPU in float32
with the same number of ranks and threads; on CUDA up to what its kernels leave open, see `run.deterministic`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer import checks
from trainer.architecture import image_size, tokenizer
from trainer.checkpoint import Checkpoint, CheckpointError, Checkpoints
from trainer.concepts import ConceptTargets
from trainer.config import Config
from trainer.config_files import differences, plain
from trainer.data import Batch, DataError, ShardLoader
from trainer.distillation import concept_targets, resolved
from trainer.distributed import Ranks, joined_ranks, same_on_all
from trainer.ema import Average
from trainer.export import export
from trainer.logs import RunLog
from trainer.model import build_student
from trainer.model_card import model_card
from trainer.optim import build_optimizer, rate_factor
from trainer.progress import Progress, line
from trainer.randomness import Purpose, seed_torch
from trainer.step import Skipped, Stepper, losses_of
from trainer.stopping import StopWish, stop_wish
from trainer.transforms import preprocessing, transform

MAY_CHANGE = (
    "data.sources", "data.workers", "data.prefetch", "data.stall_s", "data.index_folder", "data.cache_folder",
    "data.cache_gib", "data.max_bad_share", "concepts.path", "model.compile", "model.gradient_checkpointing",
    "loss.chunk", "schedule.micro_batches", "run.device", "run.threads", "run.timeout_s", "run.max_nonfinite",
    "run.deterministic", "log", "check", "checkpoint",
)  # fmt: skip
"""What may differ when a run is resumed. Data may have moved; that they are the same is seen from their hashes."""


class WrongUse(ValueError):
    """The run cannot start as asked; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a call of `train` ended."""

    step: int
    samples: int
    finished: bool
    """All samples were seen; else it was asked to stop, and the same call goes on."""
    signal: int | None
    """What asked."""
    checks: dict[str, checks.Share]
    """Held-out quality at the end; empty where it was stopped or nothing is held out."""
    export: Path | None
    """The exported model."""


def train(config: Config, workdir: Path | str, say: Callable[[str], None] = print) -> Outcome:
    """Train, from the beginning or from the newest good checkpoint in `workdir`. Started by torchrun, all its processes
    call this with the same arguments and a `workdir` that all of them see.

    `say` gets lines for people, on the first rank. Raises `WrongUse`, `DataError`, `BadWeights`, `BadArchitecture`,
    `CheckpointError`, and `Diverged` when steps stay non-finite.
    """
    device_type = _device_type(config)
    with joined_ranks(device_type, config.run.timeout_s) as ranks, stop_wish() as wish:
        quiet: Callable[[str], None] = say if ranks.first else _nothing
        with _locked(Path(workdir), ranks):
            run = _Run(config, Path(workdir), quiet, ranks, wish, device_type)
            try:
                return run.go()
            finally:
                run.close()


class _Run:
    """One call of `train`."""

    def __init__(
        self, config: Config, workdir: Path, say: Callable[[str], None], ranks: Ranks, wish: StopWish, device_type: str
    ):
        self.config, concepts_line = resolved(config)
        self.workdir, self.say, self.ranks, self.wish = workdir, say, ranks, wish
        self.device = torch.device(device_type, ranks.local_rank) if device_type == "cuda" else torch.device("cpu")
        self.loader: ShardLoader | None = None
        self.log: RunLog | None = None
        self._prepare_torch()
        self.say(concepts_line)
        self._build()
        self._restore()

    # -- setting up ------------------------------------------------------------------------------------------------

    def _prepare_torch(self) -> None:
        run = self.config.run
        if run.threads is not None:
            torch.set_num_threads(run.threads)
        if run.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = not run.deterministic
        same_on_all(self.ranks, "the configuration", plain(self.config))

    def _build(self) -> None:
        config, ranks = self.config, self.ranks
        if config.schedule.batch_size % ranks.world:
            raise WrongUse(
                f"schedule.batch_size {config.schedule.batch_size} cannot be divided over {ranks.world} ranks"
            )
        if not config.data.drop_last:
            raise WrongUse("data.drop_last is false: all ranks need batches of one size, so leave it true")
        per_rank = config.schedule.batch_size // ranks.world
        if config.schedule.micro_batches > per_rank:
            raise WrongUse(
                f"schedule.micro_batches {config.schedule.micro_batches} is more than the {per_rank} pairs of a rank"
            )
        seed_torch(config.run.seed, Purpose.WEIGHTS)
        self.targets = targets = concept_targets(config)
        heads = {name: targets[0].heads[name] for name in config.concepts.weights} if targets else {}
        self.student, self.architecture, said = build_student(config.model, config.concepts, heads)
        self.student.to(self.device)
        size = image_size(self.architecture)
        self.tokenize = tokenizer(self.architecture)
        self.eval_transform = transform(config.transform, size, training=False)
        self.loader = ShardLoader(
            config.data,
            batch_size=per_rank,
            rank=ranks.rank,
            world=ranks.world,
            seed=config.run.seed,
            transform=transform(config.transform, size, training=True),
            tokenizer=self.tokenize,
            concepts=targets or None,
        )
        self.batches = self.loader.batches_per_epoch
        self.total_samples = config.schedule.samples or math.ceil(
            (config.schedule.epochs or 0) * self.loader.samples_per_epoch
        )
        self.total_steps = math.ceil(self.total_samples / config.schedule.batch_size)
        if config.check.zero_shot:
            self.zero_shot_data = checks.read_zero_shot(Path(config.check.zero_shot))
        fused = self.device.type == "cuda"
        self.optimizer = build_optimizer(self.student, config.optimizer, config.concepts, fused=fused)
        self.average = Average(self.student, config.run.ema) if config.run.ema else None
        if config.model.compile:
            self.student.compile()
        self.stepper = Stepper(
            student=self.student,
            module=self._parallel(),
            optimizer=self.optimizer,
            losses=losses_of(config),
            config=config,
            ranks=ranks,
            device=self.device,
            average=self.average,
        )
        for text in said:
            self.say(f"warm start: {text}")

    def _parallel(self) -> nn.Module:
        if self.ranks.world == 1:
            return self.student
        ids = [self.ranks.local_rank] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            self.student, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def _restore(self) -> None:
        assert self.loader is not None
        self.fingerprint = _fingerprint(self.loader, self.targets)
        same_on_all(self.ranks, "the training data", self.fingerprint)
        self.checkpoints = Checkpoints(self.workdir / "checkpoints", self.config.checkpoint)
        found = self.checkpoints.newest(self.say) if self.ranks.first else None
        step = self.ranks.share(found.step if found else None)
        if step is not None and found is None:
            found = self.checkpoints.load(step)
        self.step = 0
        self.measured: dict[str, checks.Share] = {}
        if found is not None:
            self._take_over(found)
        if self.ranks.first:
            self.workdir.mkdir(parents=True, exist_ok=True)
            (self.workdir / "config.yaml").write_text(yaml.safe_dump(plain(self.config), sort_keys=False))
            self.log = RunLog(self.workdir, self.config.log, plain(self.config), self.say, self.step)
        self.ranks.barrier()

    def _take_over(self, found: Checkpoint) -> None:
        state = found.training
        changed = [name for name in differences(state["config"], plain(self.config)) if not name.startswith(MAY_CHANGE)]
        if changed:
            raise WrongUse(
                f"{self.workdir} holds a run with another {', '.join(changed)}; give it the same, or "
                "start in another WORKDIR"
            )
        if state["data"] != self.fingerprint:
            raise WrongUse(
                f"the training data are not those that the run in {self.workdir} began with; start in another WORKDIR"
            )
        self.student.clip.load_state_dict(found.model)
        self.student.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        self.stepper.skipped = Skipped(**state["skipped"])
        if self.average is not None:
            self.average.student.load_state_dict(state["average"])
        self.step = found.step
        text = f"going on after step {self.step:,} of {self.total_steps:,}"
        if state["world"] != self.ranks.world:
            text += f" (saved by {state['world']} ranks, now {self.ranks.world}: not bit-equal to a run with as many)"
        self.say(text)

    # -- running ---------------------------------------------------------------------------------------------------

    def go(self) -> Outcome:
        """Steps until the end or until asked to stop."""
        assert self.loader is not None
        self._introduce()
        self.progress = Progress(self.total_steps, self.config.schedule.batch_size, self.step)
        stopped = False
        while self.step < self.total_steps and not stopped:
            stopped = self._epoch(self.step // self.batches, self.step % self.batches)
        if stopped:
            self._save()
            self.say(f"stopped after step {self.step:,} of {self.total_steps:,}; the same command goes on from there")
            return self._outcome(finished=False)
        return self._finish()

    def _introduce(self) -> None:
        assert self.loader is not None
        trained = sum(p.numel() for p in self.student.parameters() if p.requires_grad)
        everything = sum(p.numel() for p in self.student.parameters())
        pairs = self.loader.samples_per_epoch
        bad = {kind: count for kind, count in self.loader.counts.items() if kind != "ok" and count}
        self.say(
            f"{everything / 1e6:.1f} M weights, {trained / 1e6:.1f} M of them trained; {pairs:,} pairs per epoch in "
            f"{self.batches:,} batches of {self.config.schedule.batch_size:,}; {self.total_steps:,} steps, "
            f"{self.total_samples:,} samples; {self.ranks.world} x {self.device.type}, {self.config.run.precision}"
            + (f"; left out: {', '.join(f'{count} {kind}' for kind, count in bad.items())}" if bad else "")
        )

    def _epoch(self, epoch: int, start: int) -> bool:
        """Steps to the end of an epoch, or of the run; True where it was asked to stop."""
        assert self.loader is not None
        self.student.train()
        batches = self.loader.epoch(epoch, start)
        for number in range(start, self.batches):
            if self.step >= self.total_steps:
                return False
            batch = self._next(batches)
            if self.ranks.any(batch is None):
                return True
            assert batch is not None
            self._one_step(batch, epoch, number)
        return False

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """A batch, None when asked to stop. The signal may have reached the loader's workers first and ended them."""
        if self.wish.asked:
            return None
        try:
            batch = next(batches)
        except RuntimeError as error:
            if self.wish.asked and not isinstance(error, DataError):
                return None
            raise
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def _one_step(self, batch: Batch, epoch: int, number: int) -> None:
        rate = rate_factor(self.config.schedule, self.step * self.config.schedule.batch_size, self.total_samples)
        result = self.stepper.step(batch, epoch, number, rate)
        self.step += 1
        if not result.finite and self.log is not None:
            self.log.write(
                "event", self.step, self._samples(), {"event": "skipped", "gradient_norm": str(result.gradient_norm)}
            )
        if self.step % self.config.log.every_steps == 0 or self.step == self.total_steps:
            self._report(result, rate)
        last = self.step == self.total_steps
        with self.progress.not_counted():
            check_due = last or self._passes(self.config.check.every_samples)
            self.measured = self._check() if check_due else {}
            if last or self._passes(self.config.checkpoint.every_samples):
                self._save()

    def _passes(self, every: int | None) -> bool:
        """The step just taken passed a multiple of that many samples."""
        if every is None:
            return False
        return self._samples() // every > (self._samples() - self.config.schedule.batch_size) // every

    def _samples(self) -> int:
        return self.step * self.config.schedule.batch_size

    def _report(self, result: Any, rate: float) -> None:
        assert self.loader is not None
        speed = self.progress.speed(self.step, self.loader.waited_s)
        rate *= self.config.optimizer.learning_rate
        if self.log is not None:
            self.log.say(line(self.step, self.total_steps, result, speed, rate, self.stepper.skipped.total))
            bad = sum(count for kind, count in self.loader.counts.items() if kind != "ok")
            values = {
                **result.values,
                "scale": result.scale,
                "gradient_norm": result.gradient_norm,
                "learning_rate": rate,
            }
            values = {key: value if math.isfinite(value) else str(value) for key, value in values.items()}
            self.log.write(
                "step",
                self.step,
                self._samples(),
                {**values, **speed, "skipped": self.stepper.skipped.total, "bad_samples": bad},
            )

    def _check(self) -> dict[str, checks.Share]:
        """Held-out retrieval and zero-shot, of the averaged weights where there are any."""
        student = self.student if self.average is None else self.average.student
        found: dict[str, checks.Share] = {}
        settings = self.config.check
        if settings.retrieval_samples and self.config.data.split.holdout and self.config.data.split.part == "train":
            loader = self._holdout()
            try:
                pairs = checks.retrieval(student, loader, self.ranks, self.device, self.stepper.autocast)
            finally:
                loader.close()
            found.update({f"retrieval/{name}": share for name, share in pairs.items()})
        if settings.zero_shot:
            accuracy = checks.zero_shot(
                student,
                self.zero_shot_data,
                settings.templates,
                transform=self.eval_transform,
                tokenizer=self.tokenize,
                batch_size=settings.batch_size,
                ranks=self.ranks,
                device=self.device,
                autocast=self.stepper.autocast,
            )
            found.update({f"zero_shot/{name}": share for name, share in accuracy.items()})
        self.student.train()
        if found and self.log is not None:
            for text in _check_lines(found):
                self.log.say(f"step {self.step:,}: {text}")
            values: dict[str, float] = {}
            for name, share in found.items():
                values |= {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}
                values[f"{name}_chance"] = share.chance
            self.log.write("check", self.step, self._samples(), values)
        return found

    def _holdout(self) -> ShardLoader:
        """The held-out pairs, in a fixed order, without concepts."""
        data = self.config.data
        settings = replace(
            data,
            sources=tuple(replace(source, weight=None) for source in data.sources),
            split=replace(data.split, part="holdout"),
            shuffle=0,
            streams=1,
            drop_last=False,
            samples_per_epoch=None,
        )
        most = self.config.check.retrieval_samples
        for limit in (None, most):
            loader = ShardLoader(
                replace(settings, samples_per_epoch=limit),
                batch_size=self.config.check.batch_size,
                rank=self.ranks.rank,
                world=self.ranks.world,
                transform=self.eval_transform,
                tokenizer=self.tokenize,
            )
            if loader.samples_per_epoch <= most:
                return loader
            loader.close()
        raise AssertionError("a loader of a limited epoch holds more than its limit")

    # -- keeping ---------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.ranks.first and self.step not in self.checkpoints.steps():
            assert self.log is not None
            self.log.sync()
            pairs = {name: share for name, share in self.measured.items() if name.startswith("retrieval/")}
            self.checkpoints.save(
                Checkpoint(
                    step=self.step,
                    samples=self._samples(),
                    model=self.student.clip.state_dict(),
                    training=self._training_state(),
                    metric=checks.mean_recall(pairs) if pairs else None,
                )
            )
        self.ranks.barrier()

    def _training_state(self) -> dict[str, Any]:
        return {
            "config": plain(self.config),
            "data": self.fingerprint,
            "world": self.ranks.world,
            "heads": self.student.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "skipped": vars(self.stepper.skipped),
            "average": self.average.student.state_dict() if self.average is not None else None,
        }

    def _finish(self) -> Outcome:
        folder = self.workdir / "export"
        if not self.measured:  # the run had ended before, or nothing is held out
            self.measured = self._check()
        if self.ranks.first:
            assert self.loader is not None
            student = self.student if self.average is None else self.average.student
            card = model_card(
                self.config,
                samples=self._samples(),
                steps=self.step,
                skipped=self.stepper.skipped.total,
                pairs=self.loader.samples_per_epoch,
                results=_check_lines(self.measured),
                versions={name: version(name) for name in ("torch", "open_clip_torch", "timm")},
            )
            size = image_size(self.architecture)
            export(
                folder, self.architecture, student.clip.state_dict(), preprocessing(self.config.transform, size), card
            )
            self.say(f"model in {folder}/, for open_clip.create_model_and_transforms('local-dir:{folder}')")
        self.ranks.barrier()
        return self._outcome(finished=True)

    def _outcome(self, finished: bool) -> Outcome:
        return Outcome(
            step=self.step,
            samples=self._samples(),
            finished=finished,
            signal=self.wish.signal,
            checks=self.measured if finished else {},
            export=self.workdir / "export" if finished else None,
        )

    def close(self) -> None:
        """End workers, close files."""
        if self.loader is not None:
            self.loader.close()
        if self.log is not None:
            self.log.close()


def _check_lines(found: dict[str, checks.Share]) -> list[str]:
    lines = []
    for direction in ("image_to_text", "text_to_image"):
        shares = {k: found.get(f"retrieval/{direction}_r{k}") for k in checks.KS}
        present = {k: share for k, share in shares.items() if share is not None}
        if present:
            n = next(iter(present.values())).n
            words = direction.replace("_", " ")
            lines.append(
                f"held-out retrieval, {n} pairs, {words}: " + ", ".join(f"R@{k} {s}" for k, s in present.items())
            )
    if "zero_shot/accuracy" in found:
        share = found["zero_shot/accuracy"]
        lines.append(f"zero-shot, {share.n} pictures: accuracy {share}")
    return lines


def _device_type(config: Config) -> str:
    if config.run.device == "cuda" and not torch.cuda.is_available():
        raise WrongUse("run.device is cuda, but torch sees no GPU; set run.device=cpu, or auto")
    if config.run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.run.device


def _fingerprint(loader: ShardLoader, targets: Sequence[ConceptTargets]) -> str:
    """Of the shards, their order, and the concept targets."""
    digest = hashlib.sha256()
    for source in loader.sources:
        for shard in source.shards:
            digest.update(f"{shard.sha256} {shard.samples}\n".encode())
        digest.update(b"\n")
    for each in targets:
        digest.update(json.dumps(each.manifest, sort_keys=True).encode())
    return digest.hexdigest()


@contextmanager
def _locked(workdir: Path, ranks: Ranks) -> Iterator[None]:
    """Keeps two runs from writing to one folder."""
    if not ranks.first:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WrongUse(f"another run is writing to {workdir}; wait for it, or take another WORKDIR") from error
        yield


def _nothing(line: str) -> None:
    pass


__all__ = ["CheckpointError", "Outcome", "WrongUse", "train"]
