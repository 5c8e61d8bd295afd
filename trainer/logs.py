"""The log of a run: progress lines, `log.jsonl`, TensorBoard, Weights & Biases, and the speed that
they report."""

import importlib.util
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from open_diht.common.command_line import WrongUse
from open_diht.common.files import publish_bytes
from open_diht.common.installation import install_command
from open_diht.common.progress import EVERY_ON_A_PIPE_S, duration
from open_diht.trainer.config import LogSettings
from open_diht.trainer.picture import PAGE, curves, curves_of, page
from open_diht.trainer.step import Skipped, StepResult

_DRAW_EVERY_S = 10.0
_DRAW_PAUSES = 100
"""Pause between two drawings of `train.html`, in times of what one takes: a long log is drawn less
often, so that drawing stays below 1 % of the training."""
_COMMON = ("loss", "contrastive", "accuracy", "hardest")


class MissingTracker(WrongUse):
    """The configured tracker is not installed, or cannot be reported to."""


class RunLog:
    """A log of values by step. Whole lines are never removed. A resume is a line of kind
    `event`. After it steps may appear again; the last value of a step counts. `resumed_at` is 0
    for a new run. The log calls `grown` when files have grown, and with `now=True` before a
    checkpoint. It draws `train.html`, which calls the run `name`. Raises `WrongUse` if the log
    cannot be written or that of `log.other_run` not be read, `MissingTracker` if the tracker cannot
    be used."""

    def __init__(
        self,
        workdir: Path,
        settings: LogSettings,
        config: Mapping[str, Any],
        resumed_at: int,
        grown: Callable[..., None] = lambda now=False: None,
        name: str = "",
    ):
        self._grown = grown
        self._name = name or str(workdir)
        self._other = curves_of(settings.other_run, "log.jsonl") if settings.other_run else None
        self._draw_at = 0.0
        path = workdir / "log.jsonl"
        self._page = workdir / PAGE
        try:
            if path.exists():
                # A killed run may have left part of a line; the resumed run takes its step again.
                # To nothing if there is no whole line.
                os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
            # Open for the length of the run.
            self._file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise WrongUse(
                f"the log cannot be written ({error}): move it away, or take another WORKDIR"
            ) from error
        self._board: Any = None
        if settings.tensorboard and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(
                str(workdir / "tensorboard"), purge_step=resumed_at + 1 if resumed_at else None
            )
        self._wandb = _wandb(workdir, settings.wandb, config) if settings.wandb else None

    def write(self, kind: str, step: int, samples: int, values: Mapping[str, Any]) -> None:
        """Record the values of a step. Only numbers go to TensorBoard and Weights & Biases."""
        self._file.write(
            json.dumps({"kind": kind, "step": step, "samples": samples, **values}) + "\n"
        )
        self._file.flush()
        numbers = {
            f"{kind}/{key}": value
            for key, value in values.items()
            if isinstance(value, int | float)
        }
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log({**numbers, "samples": samples}, step=step)
        if time.monotonic() >= self._draw_at:
            self.draw()
        self._grown()

    def sync(self) -> None:
        """Flush the log to the disk, and the curves to their file. Call it before a checkpoint is
        published."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()
        self._grown(now=True)

    def draw(self, ended: bool = False) -> None:
        """Write `train.html`. `ended` tells it that the run takes no more steps."""
        began = time.monotonic()
        handle = self._file.fileno()  # the log may have been moved away
        log = os.pread(handle, os.fstat(handle).st_size, 0)
        drawn = page(curves(log, self._name), self._other, ended)
        publish_bytes(self._page, drawn.encode("utf-8", "replace"))
        now = time.monotonic()
        self._draw_at = now + max(_DRAW_EVERY_S, _DRAW_PAUSES * (now - began))

    def close(self) -> None:
        """Close the files and the tracker at the end of the run."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb(workdir: Path, project: str, config: Mapping[str, Any]) -> Any:
    if importlib.util.find_spec("wandb") is None:
        raise MissingTracker(
            f"log.wandb is set but wandb is not installed: {install_command('wandb')}, or"
            " log.wandb=''"
        )
    import wandb

    known = workdir / "wandb_id"  # by which a resumed run continues its curves
    if not known.exists():
        known.write_text(uuid.uuid4().hex[:12])
    try:
        return wandb.init(
            project=project,
            id=known.read_text().strip(),
            resume="allow",
            dir=str(workdir),
            config=dict(config),
        )
    except wandb.Error as error:
        raise MissingTracker(
            f"log.wandb {project} cannot be reported to ({' '.join(str(error).split())}): set it"
            " right, or WANDB_MODE=offline, or log.wandb=''"
        ) from error


class TrainingProgress:
    """A meter of the speed in consecutive windows of steps. `full_speed` is images/s of all devices
    at an MFU of 1."""

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        step: int,
        clock: Callable[[], float] = time.perf_counter,
        full_speed: float | None = None,
    ):
        self._full_speed = full_speed
        self._total = total_steps
        self._batch = batch_size
        self._clock = clock
        self._began = clock()
        self._from = step
        self._waited = 0.0
        self._first = step
        self._aside = 0.0

    def speed(self, step: int, waited_s: float) -> dict[str, float]:
        """Return the speed since the last call; `waited_s` counts the seconds of waiting for
        batches since the start. `samples_per_s` is over all ranks, `data_wait` the fraction of time
        that this rank waited for batches, and `eta_s` the seconds left including checks and
        checkpoints. `mfu` is present if the full speed is known.
        """
        now = self._clock()
        spent = max(now - self._began, 1e-9)
        steps = step - self._from
        speed = {
            "samples_per_s": steps * self._batch / spent,
            "data_wait": min(1.0, (waited_s - self._waited) / spent),
            "eta_s": (
                (self._total - step)
                * (spent / max(steps, 1) + self._aside / max(step - self._first, 1))
            ),
        }
        if self._full_speed is not None:
            speed["mfu"] = speed["samples_per_s"] / self._full_speed
        self._began = now
        self._from = step
        self._waited = waited_s
        return speed

    def between(self, step: int) -> str:
        """Return a line for the time between two progress lines."""
        spent = max(self._clock() - self._began, 1e-9)
        steps = step - self._from
        at = f"step {step:,}/{self._total:,}"
        if not steps:
            return f"{at}  the next step has not ended for {duration(spent)}"
        left = duration((self._total - step) * spent / steps)
        return f"{at}  {steps * self._batch / spent:,.0f} images/s  ETA {left}"

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        """Exclude the time of the `with` block, such as a check or a checkpoint, from the speed."""
        began = self._clock()
        yield
        aside = self._clock() - began
        self._began += aside
        self._aside += aside


class Pulse:
    """Reports a line after every `every_s` seconds of silence, so that a slow training is not
    silent."""

    def __init__(self, say: Callable[[str], None], every_s: float = EVERY_ON_A_PIPE_S):
        self._say = say
        self._every = every_s
        self._said = time.monotonic()
        self._failed: BaseException | None = None

    def say(self, text: str) -> None:
        """Report a line. If the thread failed to report an earlier one, raise its error, such as a
        closed output."""
        if self._failed is not None:
            raise self._failed
        self._said = time.monotonic()
        self._say(text)

    @contextmanager
    def filling(self, line: Callable[[], str]) -> Iterator[None]:
        """Report `line()` from a thread whenever the `with` block has been silent for `every_s`."""
        ended = threading.Event()

        def fill() -> None:
            while not ended.wait(max(0.0, self._said + self._every - time.monotonic())):
                if time.monotonic() >= self._said + self._every:
                    try:
                        self.say(line())
                    except BaseException as error:
                        self._failed = error
                        return

        thread = threading.Thread(target=fill, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def line(
    step: int,
    total: int,
    result: StepResult,
    speed: dict[str, float],
    rate: float,
    skipped: Skipped,
) -> str:
    """Return the progress line; `speed` is the result of `TrainingProgress.speed`, with
    `peak_memory_gib`."""
    values = result.values
    heads = [f"{name} {value:.3f}" for name, value in values.items() if name not in _COMMON]
    parts = [
        f"step {step:,}/{total:,}",
        f"loss {values['loss']:.4f}",
        *([f"contrastive {values['contrastive']:.4f}", *heads] if heads else []),
        *([f"accuracy {values['accuracy']:.1%}"] if "accuracy" in values else []),
        f"scale {result.scale:.2f}",
        f"grad {result.gradient_norm:.3g}",
        f"lr {rate:.2e}",
        f"{speed['samples_per_s']:,.0f} images/s",
        *([f"MFU {speed['mfu']:.1%}"] if "mfu" in speed else []),
        f"peak {speed['peak_memory_gib']:.1f} GiB",
        f"data wait {speed['data_wait']:.0%}",
        f"ETA {duration(speed['eta_s'])}",
    ]
    parts += [f"skipped {skipped.total}"] if skipped.total else []
    return "  ".join(parts + ([f"without targets {skipped.pairs:,}"] if skipped.pairs else []))
