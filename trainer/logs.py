"""What a run says and writes down: a line for people, `log.jsonl` for programs, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from open_diht.common.command_line import WrongUse
from open_diht.common.installation import install_command
from open_diht.trainer.config import LogSettings


class MissingTracker(RuntimeError):
    """A tracker that was asked for is not installed, or takes nothing."""


class RunLog:
    """Writes values by step. The log is only ever continued: the steps after the one resumed from appear again, after a
    line of kind `event`, `resumed`. The last line of a step is the one that counts."""

    def __init__(
        self,
        workdir: Path,
        settings: LogSettings,
        config: Mapping[str, Any],
        say: Callable[[str], None],
        resumed_at: int,
        grown: Callable[..., None] = lambda now=False: None,
    ):
        """`grown` is told, with `now` before a checkpoint, that files in `workdir` have grown."""
        self._say, self._grown = say, grown
        self._path = workdir / "log.jsonl"
        try:
            _drop_torn_line(self._path)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 open for the length of the run
        except OSError as error:
            raise WrongUse(f"the log cannot be written ({error}): move it away, or take another WORKDIR") from error
        self._board = _tensorboard(workdir, resumed_at) if settings.tensorboard else None
        self._wandb = _wandb(workdir, settings.wandb, config) if settings.wandb else None

    def say(self, line: str) -> None:
        """A line for people."""
        self._say(line)

    def write(self, kind: str, step: int, samples: int, values: Mapping[str, Any]) -> None:
        """Record values of a step, under `kind`: step, check or event."""
        self._file.write(json.dumps({"kind": kind, "step": step, "samples": samples, **values}) + "\n")
        self._file.flush()
        numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, int | float)}
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log({**numbers, "samples": samples}, step=step)
        self._grown()

    def sync(self) -> None:
        """Bring to disk what was written; called before a checkpoint is published."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()
        self._grown(now=True)

    def close(self) -> None:
        """End of the run."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _drop_torn_line(path: Path) -> None:
    """What a kill left of a line that was being written; its step is taken again."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def _tensorboard(workdir: Path, resumed_at: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(workdir / "tensorboard"), purge_step=resumed_at + 1 if resumed_at else None)


def _wandb(workdir: Path, project: str, config: Mapping[str, Any]) -> Any:
    if importlib.util.find_spec("wandb") is None:
        raise MissingTracker(
            f"log.wandb is set but wandb is not installed: {install_command('wandb')}, or log.wandb=''"
        )
    import wandb

    known = workdir / "wandb_id"
    if not known.exists():
        known.write_text(uuid.uuid4().hex[:12])
    try:
        return wandb.init(
            project=project, id=known.read_text().strip(), resume="allow", dir=str(workdir), config=dict(config)
        )
    except wandb.Error as error:
        raise MissingTracker(
            f"log.wandb {project} cannot be reported to ({' '.join(str(error).split())}): set it right, or WANDB_MODE="
            "offline, or log.wandb=''"
        ) from error
