"""Checkpoints: complete or absent, verified before use, the previous one in reserve.

A checkpoint is a folder `step-000000001000` with `model.safetensors` (the dual encoder by open_clip's names),
`training.pt` (everything else that the next step depends on) and `manifest.json` (sizes and SHA-256 of both, and the
SHA-256 of its own values). It is written under a temporary name, flushed to disk and renamed; on loading every byte is
compared with the manifest, and a damaged checkpoint is set aside for the one before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from open_diht.common.files import published_folder, remove_temporaries, sha256_file, temporary_beside
from open_diht.trainer.config import CheckpointSettings

MODEL, TRAINING, MANIFEST = "model.safetensors", "training.pt", "manifest.json"
CANNOT_WRITE = (OSError, RuntimeError, SafetensorError)
"""What Python, torch and safetensors raise where a disk is full."""
_PREFIX, _DAMAGED = "step-", "damaged-"


class CheckpointError(RuntimeError):
    """No checkpoint can be used, or one could not be written; the message names it and the remedy."""


class Damaged(CheckpointError):
    """This checkpoint is not what was written."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where training stood after `step` steps."""

    step: int
    samples: int
    model: dict[str, Tensor]
    """The dual encoder, by open_clip's names."""
    training: dict[str, Any]
    """Plain values and tensors."""
    metric: float | None = None
    """Higher is better; None: not measured at this step."""


def name_of(step: int) -> str:
    """The name of a step's folder."""
    return f"{_PREFIX}{step:012d}"


def step_of(name: str) -> int | None:
    """The step of a folder of this name; None where it is no checkpoint's."""
    number = name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() and name == name_of(int(number)) else None


class Checkpoints:
    """The checkpoints of one run, in one folder. Only the first rank saves; every rank may load."""

    def __init__(self, folder: Path, settings: CheckpointSettings | None = None):
        self.folder = folder
        self._settings = settings or CheckpointSettings()

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first; not verified."""
        return sorted(step for name in self._names() if (step := step_of(name)) is not None)

    def path(self, step: int) -> Path:
        """The folder of a step."""
        return self.folder / name_of(step)

    def name(self, step: int) -> str:
        """What people call it."""
        return str(self.path(step))

    def digest(self, step: int) -> str:
        """SHA-256 of the manifest of a step, which has those of its files."""
        return hashlib.sha256(self._manifest_bytes(step)).hexdigest()

    def save(self, checkpoint: Checkpoint) -> Path:
        """Publish a checkpoint and remove those that need not be kept: before it where it does not fit beside them,
        else after it. Raises `CheckpointError` where it cannot be written; the newest one before stays as it was."""
        try:
            self._write(checkpoint)
        except CANNOT_WRITE as error:
            if not self._prune(checkpoint):
                raise self._cannot_write(checkpoint, error) from error
            try:
                self._write(checkpoint)
            except CANNOT_WRITE as again:
                raise self._cannot_write(checkpoint, again) from again
        self._prune()
        return self.path(checkpoint.step)

    def _write(self, checkpoint: Checkpoint) -> None:
        with published_folder(self.path(checkpoint.step)) as temporary:
            tensors = {name: tensor.contiguous() for name, tensor in checkpoint.model.items()}
            save_file(tensors, temporary / MODEL, metadata={"format": "pt"})
            torch.save(_on_cpu(checkpoint.training), temporary / TRAINING)
            manifest: dict[str, Any] = {
                "step": checkpoint.step,
                "samples": checkpoint.samples,
                "metric": checkpoint.metric,
                "files": {name: _describe(temporary / name) for name in (MODEL, TRAINING)},
            }
            manifest["sha256"] = content_digest(manifest)
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    def _cannot_write(self, checkpoint: Checkpoint, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint of step {checkpoint.step} could not be written to {self}: {error}; make room "
            "there, and the same command goes on from the one before"
        )

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of a step, verified. Raises `Damaged`."""
        manifest = self._manifest(step)
        path = self._at_hand(step)
        for name, said in manifest["files"].items():
            file = path / name
            if not file.is_file():
                raise Damaged(f"{self.name(step)}/{name} is missing")
            found = _describe(file)
            if found != said:
                raise Damaged(
                    f"{self.name(step)}/{name} has {found['bytes']} bytes and SHA-256 {found['sha256'][:12]}..., not "
                    f"{said['bytes']} and {said['sha256'][:12]}... of its manifest"
                )
        try:
            model = load_file(path / MODEL)
            training = torch.load(path / TRAINING, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, ValueError, SafetensorError) as error:
            raise Damaged(f"{self.name(step)} matches its manifest but cannot be read: {error}") from error
        return Checkpoint(
            step=step, samples=manifest["samples"], model=model, training=training, metric=manifest["metric"]
        )

    def let_go(self) -> None:
        """Remove from this machine what was only fetched to be read."""

    def newest(self, say: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
        """The newest checkpoint that verifies; damaged ones are renamed and said. None where there is none at all;
        raises `CheckpointError` where all are damaged, found so now or at an earlier start."""
        self._sweep()
        for step in reversed(self.steps()):
            try:
                return self.load(step)
            except Damaged as error:
                aside = f"{_DAMAGED}{self.path(step).name}-{uuid.uuid4().hex[:8]}"
                self._set_aside(step, aside)
                say(f"checkpoint of step {step} is damaged, now {aside}: {error}")
        damaged = [name for name in self._names() if name.startswith(_DAMAGED)]
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self} verifies, and {len(damaged)} are set aside as damaged ({damaged[-1]} "
                "is the newest): put a copy of a good one there to go on from it; to start from the beginning take "
                "another WORKDIR, or remove that folder"
            )
        return None

    def _manifest(self, step: int) -> dict[str, Any]:
        file = f"{self.name(step)}/{MANIFEST}"
        try:
            manifest = dict(json.loads(self._manifest_bytes(step)))
            if manifest.pop("sha256", None) != content_digest(manifest):
                raise Damaged(f"{file} does not match its own SHA-256")
            if manifest["step"] != step:
                raise Damaged(f"{file} is of another checkpoint")
            return manifest
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{file} cannot be read: {error}") from error

    def _prune(self, coming: Checkpoint | None = None) -> bool:
        """Remove what the policy does not keep, as if `coming` were written already; whether there was any. The newest
        stays in any case: until `coming` is there, it is all that a run can go on from."""
        there = self.steps()
        steps = there if coming is None else [*there, coming.step]
        kept = {*steps[-self._settings.keep_last :], *there[-1:]}
        every = self._settings.keep_every_samples
        best: tuple[float, int] | None = None
        previous = 0
        for step in steps:
            try:
                samples, metric = self._about(step, coming)
            except Damaged:
                continue  # it is found, and said, when a checkpoint is looked for
            if every is not None and samples // every > previous // every:
                kept.add(step)
                previous = samples
            if metric is not None:
                best = max(best or (metric, step), (metric, step))
        if self._settings.keep_best and best is not None:
            kept.add(best[1])
        gone = set(there) - kept
        for step in gone:
            self._remove(step)
        return bool(gone)

    def _about(self, step: int, coming: Checkpoint | None) -> tuple[int, float | None]:
        """Samples and metric of a checkpoint, from its manifest where it is not the one to come."""
        if coming is not None and step == coming.step:
            return coming.samples, coming.metric
        manifest = self._manifest(step)
        return manifest["samples"], manifest["metric"]

    # -- what differs where they lie elsewhere -----------------------------------------------------------------------

    def __str__(self) -> str:
        return str(self.folder)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*") if path.is_dir())

    def _manifest_bytes(self, step: int) -> bytes:
        return (self.path(step) / MANIFEST).read_bytes()

    def _at_hand(self, step: int) -> Path:
        """Its folder on this machine."""
        return self.path(step)

    def _set_aside(self, step: int, name: str) -> None:
        os.rename(self.path(step), self.folder / name)

    def _remove(self, step: int) -> None:
        aside = temporary_beside(self.folder / f"gone-{self.path(step).name}")
        os.rename(self.path(step), aside)
        shutil.rmtree(aside)

    def _sweep(self) -> None:
        """Remove what a kill left of those that were being written or removed."""
        remove_temporaries(self.folder)


def content_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's values, which the manifest itself holds as `sha256`."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(item) for item in value)
    return value
