"""A branch: a new run that begins where another one stood, with its optimiser, and other settings from there on.

The clock goes on: samples seen are those of the parent and of the child, so that schedules and the order of the data
continue. A branch with the settings of its parent takes the parent's own steps, bit by bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from open_diht.common.command_line import WrongUse
from open_diht.common.ranks import Ranks
from open_diht.trainer.assembly import Parts
from open_diht.trainer.checkpoint import Checkpoint, CheckpointError, step_of
from open_diht.trainer.data.store import is_remote
from open_diht.trainer.workdir import CHECKPOINTS, checkpoints_at, spool


@dataclass(frozen=True, kw_only=True)
class Parent:
    """What a child remembers of the checkpoint it began with."""

    path: str
    """Folder of the checkpoint, or its URL."""
    step: int
    samples: int
    sha256: str
    """Of its manifest, which has those of weights and state."""

    def __str__(self) -> str:
        return f"{self.path}, step {self.step:,}, {self.samples:,} samples (SHA-256 {self.sha256[:12]}...)"

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def adopt(path: str, parts: Parts, ranks: Ranks) -> Parent:
    """Bring the parts to the state of a checkpoint of another run, on all ranks. Raises `WrongUse` where there
    is none or it is of another model, `CheckpointError` where it is damaged."""
    cache = parts.config.data.cache_folder
    folder, step = ranks.share(_named(path, cache) if ranks.first else None)
    checkpoints = checkpoints_at(folder, cache)
    try:
        found = checkpoints.load(step)
    except CheckpointError as error:
        raise CheckpointError(f"branch.path {path}: {error}; take another checkpoint, or a good copy of it") from error
    parent = Parent(path=checkpoints.place(step), step=step, samples=found.samples, sha256=checkpoints.digest(step))
    _require_time_left(found, parts)
    _take_over(found, parts)
    ranks.barrier()
    if is_remote(folder):
        shutil.rmtree(spool(folder, cache), ignore_errors=True)
    return parent


def _named(path: str, cache_folder: str | None) -> tuple[str, int]:
    """The checkpoint that `branch.path` names, itself, or the newest one of a WORKDIR: its folder and step."""
    named = path.rstrip("/") if is_remote(path) else str(Path(path).absolute())
    folder, _, name = named.rpartition("/")
    step = step_of(name)
    if step is not None and step in checkpoints_at(folder, cache_folder).steps():
        return folder, step
    folder = f"{named}/{CHECKPOINTS}"
    steps = checkpoints_at(folder, cache_folder).steps()
    if not steps:
        raise WrongUse(f"branch.path {path} is neither a checkpoint, step-..., nor a WORKDIR with one")
    return folder, steps[-1]


def _require_time_left(found: Checkpoint, parts: Parts) -> None:
    batch = parts.config.schedule.batch_size
    if found.samples % batch:
        raise WrongUse(
            f"the parent has seen {found.samples:,} samples, which is no number of batches of schedule.batch_size "
            f"{batch:,}: take another batch size"
        )
    if found.samples >= parts.total_samples:
        raise WrongUse(
            f"the parent has seen {found.samples:,} samples, and schedule.samples, which counts them, is "
            f"{parts.total_samples:,}: raise it"
        )


def _take_over(found: Checkpoint, parts: Parts) -> None:
    state, student = found.training, parts.student
    _load(student.clip, found.model, "weights")
    _load(student.heads, state["heads"], "concept heads")
    _load_moments(parts.optimizer, state["optimizer"])
    if parts.stepper.scaler.is_enabled() and state["scaler"]:
        parts.stepper.scaler.load_state_dict(state["scaler"])
    if parts.average is not None:
        begun = student.state_dict() if state["average"] is None else state["average"]
        parts.average.student.load_state_dict(begun)


def _load(module: nn.Module, found: Mapping[str, Tensor], what: str) -> None:
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if shapes != wanted:
        name = sorted(set(shapes.items()) ^ set(wanted.items()))[0][0]
        raise WrongUse(
            f"the parent has other {what} than this run: {name} is {shapes.get(name, 'not there')}, "
            f"not {wanted.get(name, 'there')}; a branch keeps model and concept heads (model.warm_start takes weights "
            "of another form, without the optimiser)"
        )
    module.load_state_dict(dict(found))


def _load_moments(optimizer: torch.optim.Optimizer, found: Mapping[str, Any]) -> None:
    """The moments of the parent; rates, decay and the rest are those of the child."""
    mine = optimizer.state_dict()
    if [len(group["params"]) for group in mine["param_groups"]] != [
        len(group["params"]) for group in found["param_groups"]
    ]:
        raise WrongUse("the parent trained other weights than this run: leave model.freeze_image and freeze_text alike")
    optimizer.load_state_dict({"state": found["state"], "param_groups": mine["param_groups"]})
