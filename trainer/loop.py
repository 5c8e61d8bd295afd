"""`train(config, workdir)`: start or resume a run and take it from its configuration to an exported
model.

    WORKDIR/config.yaml     the configuration
    WORKDIR/checkpoints/    see `checkpoint`
    WORKDIR/log.jsonl       one line per progress line, check and event
    WORKDIR/train.html      their curves as a page, see `picture`
    WORKDIR/tensorboard/    their numbers as curves
    WORKDIR/export/         the model, with its card
    WORKDIR/tasks/          results of `check.tasks`, by step

WORKDIR is a folder or a URL (see `workdir`).

A step is a function of the state in a checkpoint and of its number: batch, augmentation and dropout
follow from the seed and the number. So a run that is killed and resumed ends bit-equal to an
undisturbed one, on a CPU in float32 with the same settings and the same number of ranks and
threads. On CUDA nondeterministic kernels may differ, see `run.deterministic`.
"""

import logging
import math
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import torch
import yaml

from open_diht.common.ranks import Ranks, joined_ranks, same_on_all
from open_diht.common.training_data import record_of
from open_diht.trainer import checks
from open_diht.trainer.assembly import Parts, device_type, introduction, prepare_torch
from open_diht.trainer.checkpoint import Checkpoint, name_of
from open_diht.trainer.checks import Share
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import plain
from open_diht.trainer.data import Batch, ShardFacts, TooManyBad
from open_diht.trainer.export import DESCRIPTION, export, loaded_by, model_card
from open_diht.trainer.inputs import resolved
from open_diht.trainer.logs import Pulse, RunLog, TrainingProgress, line
from open_diht.trainer.memory import remedy
from open_diht.trainer.picture import PAGE
from open_diht.trainer.resume import Parent, adopt, as_begun, fingerprint, restore, training_state
from open_diht.trainer.step import StepResult, rate_factor
from open_diht.trainer.tasks import RESULTS, evaluate, require_tasks
from open_diht.trainer.transforms import preprocessing
from open_diht.trainer.utilization import peak_memory
from open_diht.trainer.workdir import CONFIG, EXPORT, Workdir, opened

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """The result of a call of `train`."""

    step: int
    samples: int
    finished: bool
    """True if all samples were seen. If not, the run was asked to stop, and the same call resumes
    it."""
    signal: int | None
    """The number of the first stop signal that this process received, if any."""
    checks: dict[str, Share]
    """Measures of the last check; empty if the run was stopped or nothing is measured."""
    export: Path | None
    """The folder of the exported model. It is None if the run was stopped, or if WORKDIR is a URL
    (see `export`)."""


def train(
    config: Config, workdir: Path | str, say: Callable[[str], None] = _log.info
) -> TrainingOutcome:
    """Train a model, or resume its training in `workdir`.

    A run resumes from its newest good checkpoint. A new one starts at `branch.path` or at the
    beginning. Under torchrun all processes call this with the same arguments and a `workdir` that
    all of them can access.

    Args:
        config: the configuration of the run.
        workdir: a folder, or an fsspec URL, for checkpoints, logs and the exported model.
        say: receives progress lines, on the first rank; by default they are logged.

    Returns:
        The progress of the run, its last check, and the folder of the exported model.

    Examples:
        >>> from pathlib import Path
        >>> from open_diht import RunSettings, load_config, load_dataset, load_preset, run, train
        >>> settings = RunSettings(
        ...     dataset=load_dataset("sample"),
        ...     input="data/sample/manifest.tsv",
        ...     output=Path("out/sample"),
        ...     preset=load_preset("paper"),
        ...     stages=("captions", "export"),
        ... )
        >>> _ = run(settings)
        >>> data = {"data": {"sources": [{"path": "out/sample"}]}}
        >>> outcome = train(load_config("tiny", ["schedule.epochs=1"], data), Path("out/train"))
        >>> outcome.finished, outcome.export
        (True, PosixPath('out/train/export'))

    Raises:
        WrongUse, BadArchitecture, BadWeights, DataError: the configuration, model or data cannot be
            used. CheckpointError, CannotExport: checkpoints are damaged, or a checkpoint or the
            export could not be written.
        OSError: another file, such as the log or `config.yaml`, could not be written, as on a full
            disk. OutOfMemory: a step or a check needs too much memory. Diverged: too many
            consecutive steps were not finite. StoreError, LeaseLost: an object store failed, or
            another run took over the store of `workdir`.
        RuntimeError: configuration or data differ between ranks, or a worker or another rank ended.
    """
    kind = device_type(config)
    with joined_ranks(kind, config.run.timeout_s) as ranks, stop_requests(ranks.first) as stop:
        pulse = Pulse(say if ranks.first else lambda text: None)
        with opened(workdir, config.data.cache_folder, ranks, pulse.say) as place:
            device = torch.device(kind, ranks.local_rank) if kind == "cuda" else torch.device("cpu")
            run = _Run(config, place, pulse.say, ranks, stop, device)
            try:
                with pulse.filling(lambda: run.progress.between(run.step)):
                    return run.go()
            finally:
                run.close()


@dataclass
class StopRequest:
    """A stop request that may come. `signal` is None before it comes."""

    signal: int | None = None


@contextmanager
def stop_requests(first: bool = True) -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT in the `with` block into a stop request, so that the loop finishes
    its step and saves. A Ctrl-C after that stops at once. A second SIGTERM changes nothing, because
    `scancel` signals every process and torchrun then forwards the signal to ranks that already have
    it. The first rank acknowledges the first signal on stderr, because the step may take long to
    end. Outside the main thread Python cannot handle signals, so there is never a request."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        if request.signal is None and first:
            answer = (
                f"\n{signal.Signals(number).name}: stop request received; finishing the current"
                " step and any check that is due, without check.tasks, and saving a checkpoint;"
                " Ctrl-C again stops at once without saving\n"
            )
            with suppress(OSError):  # stderr is closed
                os.write(2, answer.encode())  # print may be what the signal interrupted
        request.signal = request.signal or number
        signal.signal(signal.SIGINT, before[signal.SIGINT])  # the next Ctrl-C stops at once

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """The state of one call of `train`."""

    def __init__(
        self,
        config: Config,
        workdir: Workdir,
        say: Callable[[str], None],
        ranks: Ranks,
        stop: StopRequest,
        device: torch.device,
    ):
        if config.check.tasks and ranks.first:
            require_tasks(config.check.tasks)
        self.config, about_targets = resolved(config)
        self.workdir = workdir
        self.say = say
        self.ranks = ranks
        self.stop = stop
        self.log: RunLog | None = None
        self.step = 0
        self.saved: int | None = None
        self.check_due = False  # at the step from which the run resumes
        self.measured: dict[str, Share] = {}
        prepare_torch(self.config)
        same_on_all(ranks, "the configuration", plain(self.config))
        self.checkpoints = workdir.checkpoints(self.config.checkpoint, say)
        # Other ranks load it by its step.
        found = self.checkpoints.newest() if ranks.first else None
        if ranks.first and found is None:
            workdir.require_unused()
        begun = ranks.share(
            {key: found.training[key] for key in ("config", "shards", "world")} if found else None
        )
        if begun is not None:
            self.config = as_begun(
                self.config, begun["config"], begun["world"] == ranks.world, str(workdir)
            )
        facts = (
            None
            if begun is None
            else [[ShardFacts(*fact) for fact in shards] for shards in begun["shards"]]
        )
        self.parts = Parts(self.config, ranks, device, facts)
        self.config = self.parts.config
        self.data = fingerprint(self.parts)
        same_on_all(ranks, "the training data", self.data)
        for text in (*about_targets, *self.parts.said):
            say(text)
        self.parent: Parent | None = None
        self._restore(found)
        say(introduction(self.parts))
        say(f"curves in {workdir}/{PAGE}, drawn again every few seconds")
        self.batches = self.parts.loader.batches_per_epoch  # steps of an epoch
        self.bad = 0
        self.progress = TrainingProgress(
            self.parts.total_steps,
            self.config.schedule.batch_size,
            self.step,
            full_speed=self.parts.full_speed,
        )

    def _restore(self, checkpoint: Checkpoint | None) -> None:
        step = self.ranks.share(checkpoint.step if checkpoint else None)
        if step is not None:
            checkpoint = checkpoint or self.checkpoints.load(step)
            for text in restore(checkpoint, self.parts, self.data, str(self.workdir)):
                self.say(text)
            self.step = self.saved = checkpoint.step
            self.check_due = not checkpoint.checked
            if checkpoint.training.get("parent") is not None:
                self.parent = Parent(**checkpoint.training["parent"])
        elif self.config.branch.path:
            self.parent = adopt(self.config.branch.path, self.parts, self.ranks)
            self.step = self.parent.samples // self.config.schedule.batch_size
        if self.parent is not None:
            self.say(f"a branch of {self.parent}")
        if self.ranks.first:
            workdir = self.workdir
            config = plain(self.config)
            self.log = RunLog(
                workdir.folder,
                self.config.log,
                config,
                self.step,
                grown=workdir.grown,
                name=str(workdir),
            )
            (workdir.folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
            if step is not None:
                self.log.write("event", self.step, self._samples(), {"event": "resumed"})
            elif self.parent is not None:
                about = {f"parent_{name}": value for name, value in asdict(self.parent).items()}
                self.log.write("event", self.step, self._samples(), {"event": "branched", **about})
        self.ranks.barrier()

    def go(self) -> TrainingOutcome:
        """Take steps to the end of the run and export the model. After a stop request, save
        instead."""
        if self.parent is not None:
            self._save()  # unless already saved; from here on the run does not need its parent
        if self.check_due:
            with self.progress.not_counted():
                self._check_and_record()
        total = self.parts.total_steps
        stopped = False
        while self.step < total and not stopped:
            stopped = self._epoch(self.step // self.batches, self.step % self.batches)
        if stopped:
            self._save()
            self.say(
                f"stopped after step {self.step:,} of {total:,}; run the same command to resume"
            )
            return self._outcome(finished=False)
        return self._finish()

    def _epoch(self, epoch: int, start: int) -> bool:
        """Take steps to the end of the epoch or the run. Return whether a stop request ended them
        earlier."""
        self.parts.student.train()
        loader = self.parts.loader
        batches = loader.epoch(epoch, start)
        for number in range(start, self.batches):
            if self.step >= self.parts.total_steps:
                return False
            counted = loader.read.copy(), loader.lost  # to undo the next batch if the run stops
            batch = None if self.stop.signal else next(batches)
            asked, lost, self.bad = self.ranks.total(
                batch is None, loader.lost, loader.read.total() - loader.read["ok"]
            )
            loader.check_lost(epoch, lost)
            # if only another rank was asked, this one discards its batch: the resumed run reads it
            # again
            if asked:
                loader.read, loader.lost = counted
                return True
            assert batch is not None
            self._one_step(batch, epoch, number)
        return False

    def _one_step(self, batch: Batch, epoch: int, number: int) -> None:
        factor = rate_factor(self.config.schedule, self._samples(), self.parts.total_samples)
        result = self.parts.stepper.step(batch, epoch, number, factor)
        self.step += 1
        self._check_targets()
        last = self.step == self.parts.total_steps
        if not result.finite and self.log is not None:
            skipped = {"event": "skipped", "gradient_norm": str(result.gradient_norm)}
            self.log.write("event", self.step, self._samples(), skipped)
        if last or self.step % self.config.log.every_steps == 0:
            self._report(result, factor * self.config.optimizer.learning_rate)
        with self.progress.not_counted():
            check = last or self._passes(self.config.check.every_samples)
            self.measured = {}
            if last or self._passes(self.config.checkpoint.every_samples):
                # Before the check, so that one that fails loses no steps.
                self._save(checked=not check)
            if check:
                self._check_and_record()

    def _check_targets(self) -> None:
        """Raise `TooManyBad` if more samples had no targets than `distillation.max_missing_share`
        allows: of an epoch, or of all that were read, if these are more. It is the same on all
        ranks."""
        without = self.parts.stepper.skipped.pairs
        limit = self.config.distillation.max_missing_share
        if without > limit * max(self._samples(), self.parts.loader.samples_per_epoch):
            raise TooManyBad(
                f"{without:,} of {self._samples():,} samples had no targets of the teacher, and an"
                f" epoch has {self.parts.loader.samples_per_epoch:,}: this is more than"
                f" distillation.max_missing_share {limit:.2%}; make the missing targets in a new"
                " WORKDIR, or raise the setting, with which the same command resumes"
            )

    def _samples(self) -> int:
        return self.step * self.config.schedule.batch_size

    def _passes(self, every: int | None) -> bool:
        """Return whether the last step reached or passed a multiple of `every` samples."""
        now = self._samples()
        return every is not None and now // every > (now - self.config.schedule.batch_size) // every

    def _report(self, result: StepResult, rate: float) -> None:
        loader = self.parts.loader
        skipped = self.parts.stepper.skipped
        speed = self.progress.speed(self.step, loader.waited_s)
        speed["peak_memory_gib"] = max(self.ranks.collect(peak_memory(self.parts.device))) / 2**30
        if self.log is None:
            return
        self.say(line(self.step, self.parts.total_steps, result, speed, rate, skipped))
        values = {
            **result.values,
            "scale": result.scale,
            "gradient_norm": result.gradient_norm,
            "learning_rate": rate,
        }
        plain_values = {
            key: value if math.isfinite(value) else str(value) for key, value in values.items()
        }
        counts = {"skipped": skipped.total, "bad_samples": loader.indexed.total() + self.bad}
        if self.parts.embeddings or self.parts.targets:
            counts["without_targets"] = skipped.pairs
        self.log.write("step", self.step, self._samples(), {**plain_values, **speed, **counts})

    def _check_and_record(self) -> None:
        """Check the model of this step, and record the result in its checkpoint, if there is
        one."""
        self.measured = self._check()
        if self.config.check.tasks:
            self._evaluate()
        if self.saved != self.step:
            return
        if self.log is not None:
            self.log.sync()
            self.checkpoints.record_check(self.step, checks.metric(self.measured))
        self.ranks.barrier()

    def _check(self) -> dict[str, Share]:
        with remedy(
            lambda: "a check needs more memory: lower check.batch_size or check.retrieval_samples"
        ):
            measures = checks.measure(self.parts, self.say)
        if measures and self.log is not None:
            for text in checks.lines(measures):
                self.say(f"step {self.step:,}: {text}")
            self.log.write("check", self.step, self._samples(), checks.values(measures))
        return measures

    def _evaluate(self) -> None:
        """Run the tasks of the evaluation on the model as it would be exported now."""
        folder = self.workdir.folder / "tasks"
        name = name_of(self.step)
        evaluation = evaluate(
            self.config.check.tasks,
            self._export(folder / "model") if self.ranks.first else folder / "model",
            folder / name,
            device=self.parts.device,
            ranks=self.ranks,
            asked_to_stop=lambda: self.stop.signal is not None,
        )
        if evaluation is None or self.log is None:
            return
        self.workdir.publish(f"tasks/{name}", last=RESULTS)
        for text in evaluation.lines:
            self.say(f"step {self.step:,}: {text}")
        if evaluation.failed:
            event = {"event": "tasks_failed", "why": evaluation.failed}
            self.log.write("event", self.step, self._samples(), event)
        else:
            self.log.write("check", self.step, self._samples(), evaluation.values)

    def _save(self, checked: bool = True) -> None:
        """Save a checkpoint of this step, unless there is one. `checked` is false if
        `_check_and_record` follows."""
        loader = self.parts.loader
        read = self.ranks.collect(loader.read)
        lost = self.ranks.total(loader.lost)[0]
        if self.log is not None and self.step != self.saved:
            self.log.sync()
            self.checkpoints.save(
                Checkpoint(
                    step=self.step,
                    samples=self._samples(),
                    model=self.parts.student.clip.state_dict(),
                    training=training_state(
                        self.parts, self.data, sum(read, Counter()), lost, self.parent
                    ),
                    metric=checks.metric(self.measured),
                    checked=checked,
                )
            )
        self.saved = self.step
        self.ranks.barrier()

    def _finish(self) -> TrainingOutcome:
        if not self.measured:  # the run had ended before, or nothing is measured
            self.measured = self._check()
        if self.parts.embeddings or self.parts.targets:
            left = self.parts.stepper.skipped.pairs
            self.say(
                f"{left:,} of {self._samples():,} samples had no targets of the teacher, and so no"
                " loss on them"
            )
        if self.ranks.first:
            self._export(self.workdir.folder / EXPORT)
            self.workdir.publish(EXPORT, last=DESCRIPTION)
            call = loaded_by(self.parts.architecture, self._exported())
            self.say(f"model in {self.workdir}/{EXPORT}/, for {call}")
        self.ranks.barrier()
        return self._outcome(finished=True)

    def _export(self, folder: Path) -> Path:
        card = model_card(
            self.config,
            samples=self._samples(),
            steps=self.step,
            skipped=self.parts.stepper.skipped.total,
            pairs=self.parts.loader.samples_per_epoch,
            results=checks.lines(self.measured),
            versions={name: version(name) for name in ("torch", "open_clip_torch", "timm")},
            parent=None if self.parent is None else str(self.parent),
            architecture=self.parts.architecture,
        )
        weights = self.parts.evaluated.clip.state_dict()
        shape = self.parts.shape
        seen = preprocessing(self.config.transform, shape[1]) if len(shape) == 3 else {}
        data = self.config.data
        model = self.config.model
        started = [
            part
            for part in (model.warm_start, model.warm_start_image, model.warm_start_text)
            if part
        ]
        started += [self.parent.path] if self.parent else []
        record = record_of(data.places, bool(data.selection or data.loader), started)
        return export(folder, self.parts.architecture, weights, seen, card, record)

    def _outcome(self, finished: bool) -> TrainingOutcome:
        if self.log is not None:
            self.log.draw(ended=True)
        return TrainingOutcome(
            step=self.step,
            samples=self._samples(),
            finished=finished,
            signal=self.stop.signal,
            checks=self.measured if finished else {},
            export=self._exported() if finished else None,
        )

    def _exported(self) -> Path | None:
        """Return the folder of the exported model. Return None if WORKDIR is a URL."""
        return self.workdir.folder / EXPORT if self.workdir.store is None else None

    def close(self) -> None:
        """End the workers and close the log."""
        self.parts.loader.close()
        if self.log is not None:
            self.log.close()
