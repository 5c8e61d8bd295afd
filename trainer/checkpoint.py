"""Checkpoints: complete or absent, and verified before use.

A checkpoint is a folder `step-000000001000` with `model.safetensors` (the dual encoder by
open_clip's names), `training.pt` (everything else that the next step depends on) and
`manifest.json` (sizes and SHA-256 of both, and the SHA-256 of its own values). On a disk it is
written under a temporary name, flushed and renamed; on loading both files are checked against the
manifest. A step is checked after its checkpoint is written. The result replaces only the manifest,
atomically, so that the checkpoint is always valid. A resumed run renames a damaged checkpoint and
uses the one before it, if there is one.
"""

import hashlib
import json
import pickle
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from open_diht.common.files import sha256_file
from open_diht.trainer.config import CheckpointSettings
from open_diht.trainer.errors import TrainingError
from open_diht.trainer.stores import Store, StoreError, Uploads

MODEL = "model.safetensors"
TRAINING = "training.pt"
MANIFEST = "manifest.json"
CANNOT_WRITE = (OSError, RuntimeError, SafetensorError)
"""Errors that Python, torch and safetensors raise, for example if the disk is full; `StoreError` is
a RuntimeError."""
_PREFIX = "step-"
_DAMAGED = "damaged-"
_WORTH_A_LINE_S = 1.0  # shorter waits for an upload are not worth a line


class CheckpointError(TrainingError):
    """No checkpoint can be used, or one could not be written."""


class Damaged(CheckpointError):
    """A checkpoint is not as it was written, or cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run after `step` steps."""

    step: int
    samples: int
    model: dict[str, Tensor]
    """The dual encoder, by open_clip's names."""
    training: dict[str, Any]
    """The rest of the state: plain values and tensors."""
    metric: float | None = None
    """Quality, higher is better. None means that it was not measured at this step."""
    checked: bool = True
    """False if the check of this step is still due, see `Checkpoints.record_check`."""


def name_of(step: int) -> str:
    return f"{_PREFIX}{step:012d}"


def step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint's folder. Return None for another name."""
    number = name.removeprefix(_PREFIX)
    return int(number) if number.isdecimal() and name == name_of(int(number)) else None


class Checkpoints:
    """The checkpoints of one run. Only the first rank saves; all may load. Writing to a URL needs
    `uploads`."""

    def __init__(
        self,
        store: Store,
        settings: CheckpointSettings | None = None,
        uploads: Uploads | None = None,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.store = store
        self._uploads = uploads
        self._say = say
        self._settings = settings or CheckpointSettings()

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, oldest first, without verifying them."""
        steps = map(step_of, self.store.names(MANIFEST))
        return sorted(step for step in steps if step is not None)

    def place(self, step: int) -> str:
        """Return the path or URL of a step's folder."""
        return f"{self.store}/{name_of(step)}"

    def digest(self, step: int) -> str:
        """Return the SHA-256 of those entries in a step's manifest that no check changes. Raises
        `Damaged`."""
        manifest = self._manifest(step)
        return content_digest({name: manifest[name] for name in ("step", "samples", "files")})

    def save(self, checkpoint: Checkpoint) -> None:
        """Publish a checkpoint, and remove those that the settings do not keep. A store at a URL
        receives the checkpoint in the background: on return it is on this machine's disk, and
        the checkpoint before it in the store. Raises `CheckpointError` if one of these two could
        not be written; the newest one in the store stays. Raises the error of another upload
        that failed."""
        about = replace(checkpoint, model={}, training={})
        if self._uploads is None:
            self._publish(about, lambda: self._staged(checkpoint))
            return
        waited_s = self._uploads.wait()
        if waited_s > _WORTH_A_LINE_S:
            self._say(f"step {about.step:,}: waited {waited_s:.0f} s for the previous upload")
        try:
            staged = self._staged(checkpoint)
        except CANNOT_WRITE as error:
            raise CheckpointError(
                f"the checkpoint of step {about.step} could not be written to this machine's disk"
                f" on its way to {self.store}: {error}; make room on the disk or set"
                " data.cache_folder, and run the same command to resume from the previous"
                " checkpoint"
            ) from error
        self._uploads.submit(lambda: self._publish(about, lambda: staged))

    def record_check(self, step: int, metric: float | None) -> None:
        """Record the check of a saved step in its manifest, and remove the checkpoints that the
        settings do not keep. At a URL this happens in the background, after the upload of the
        checkpoint. Raises the error of an earlier upload, or `CheckpointError` if the manifest
        cannot be read or written; the checkpoint then stays as it was.
        """
        if self._uploads is None:
            self._record_check(step, metric)
        else:
            self._uploads.submit(lambda: self._record_check(step, metric))

    def _record_check(self, step: int, metric: float | None) -> None:
        manifest = {**self._manifest(step), "metric": metric, "checked": True}
        try:
            self.store.write(_signed(manifest), f"{name_of(step)}/{MANIFEST}")
        except CANNOT_WRITE as error:
            raise CheckpointError(
                f"the check of step {step} could not be recorded in {self.place(step)}: {error};"
                " correct the cause, and run the same command to check that step again"
            ) from error
        self._prune()

    def _publish(self, about: Checkpoint, stage: Callable[[], Path]) -> None:
        """Put a checkpoint into the store. After a failure remove checkpoints that need not be
        kept, and try again."""
        for again in (False, True):  # the second try follows after room was made
            try:
                staged = stage()
                if not (staged / MANIFEST).is_file():
                    raise StoreError(f"{staged} was cleared, perhaps by another program")
                self.store.put(staged, name_of(about.step), MANIFEST)
                break
            except CANNOT_WRITE as error:
                if again or not self._prune(about):
                    raise CheckpointError(
                        f"the checkpoint of step {about.step} could not be written to {self.store}:"
                        f" {error}; make room there or correct the cause, and run the same command"
                        " to resume from the previous checkpoint"
                    ) from error
        self._prune()

    def _staged(self, checkpoint: Checkpoint) -> Path:
        """Write the files of a checkpoint to a folder that `Store.put` accepts, and return it."""
        folder = self.store.stage(name_of(checkpoint.step))
        try:
            # Safetensors needs it.
            tensors = {name: tensor.contiguous() for name, tensor in checkpoint.model.items()}
            save_file(tensors, folder / MODEL, metadata={"format": "pt"})
            torch.save(_on_cpu(checkpoint.training), folder / TRAINING)
            manifest: dict[str, Any] = {
                "step": checkpoint.step,
                "samples": checkpoint.samples,
                "metric": checkpoint.metric,
                "checked": checkpoint.checked,
                "files": {name: _describe(folder / name) for name in (MODEL, TRAINING)},
            }
            (folder / MANIFEST).write_bytes(_signed(manifest))
        except BaseException:
            shutil.rmtree(folder)
            raise
        return folder

    def load(self, step: int) -> Checkpoint:
        """Load and verify the checkpoint of a step. Raises `Damaged`, or `StoreError` if it cannot
        be downloaded."""
        manifest = self._manifest(step)
        place = self.place(step)
        folder = self.store.get(name_of(step), MANIFEST)
        for name, expected in manifest["files"].items():
            file = folder / name
            if not file.is_file():
                raise Damaged(f"{place}/{name} is missing")
            found = _describe(file)
            if found != expected:
                raise Damaged(
                    f"{place}/{name} has {found['bytes']} bytes and SHA-256"
                    f" {found['sha256'][:12]}..., not {expected['bytes']} and"
                    f" {expected['sha256'][:12]}... as in its manifest"
                )
        try:
            model = load_file(folder / MODEL)
            training = torch.load(folder / TRAINING, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, ValueError, SafetensorError) as error:
            raise Damaged(f"{place} matches its manifest but cannot be read: {error}") from error
        return Checkpoint(
            step=step,
            samples=manifest["samples"],
            model=model,
            training=training,
            metric=manifest["metric"],
            checked=manifest.get("checked", True),  # earlier versions saved after the check
        )

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that verifies, after renaming and reporting damaged ones.
        Return None if there are no checkpoints. Raises `CheckpointError` if all are damaged,
        including those renamed at an earlier start.
        """
        self.store.sweep(lambda name: step_of(name) is not None, MANIFEST)
        for step in reversed(self.steps()):  # newest first
            try:
                return self.load(step)
            except Damaged as error:
                self._rename_damaged(step, error)
        damaged = [name for name in self.store.names(MANIFEST) if name.startswith(_DAMAGED)]
        if damaged:
            raise CheckpointError(
                f"no checkpoint in {self.store} is valid, and {len(damaged)} were renamed as"
                f" damaged ({damaged[-1]} is the newest): put a copy of a good one there to resume"
                f" from it; to start over, take another WORKDIR or remove {self.store}"
            )
        return None

    def _rename_damaged(self, step: int, error: Damaged) -> None:
        renamed = f"{_DAMAGED}{name_of(step)}-{uuid.uuid4().hex[:8]}"
        self.store.rename(name_of(step), renamed, MANIFEST)
        self._say(f"checkpoint of step {step} is damaged, now {renamed}: {error}")

    def _manifest(self, step: int) -> dict[str, Any]:
        file = f"{self.place(step)}/{MANIFEST}"
        try:
            manifest = dict(json.loads(self.store.read(f"{name_of(step)}/{MANIFEST}")))
            if manifest.pop("sha256", None) != content_digest(manifest):
                raise Damaged(f"{file} does not match its own SHA-256")
            if manifest["step"] != step:
                raise Damaged(f"{file} belongs to another checkpoint")
            return manifest
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(f"{file} cannot be read: {error}") from error

    def _prune(self, coming: Checkpoint | None = None) -> bool:
        """Remove the checkpoints that the settings do not keep, and return whether there were any.
        A checkpoint with a damaged manifest is renamed and reported instead, because the settings
        may keep it. `coming`, a checkpoint about to be written, counts like the others. The newest
        existing one is always kept: until `coming` is written, a run would resume from it."""
        there = self.steps()
        steps = there if coming is None else [*there, coming.step]
        kept = {*steps[-self._settings.keep_last :], *there[-1:]}
        every = self._settings.keep_every_samples
        previous = 0
        measured: list[tuple[float, int]] = []
        damaged: dict[int, Damaged] = {}
        for step in steps:
            try:
                manifest = vars(coming) if coming and step == coming.step else self._manifest(step)
            except Damaged as error:
                damaged[step] = error
                continue
            samples = manifest["samples"]
            metric = manifest["metric"]
            if every is not None and samples // every > previous // every:
                kept.add(step)
                previous = samples
            if metric is not None:
                measured.append((metric, step))
        if self._settings.keep_best and measured:
            kept.add(max(measured)[1])  # the newest one on ties
        gone = set(there) - kept
        for step in gone & damaged.keys():  # one among the newest stays: `newest` reports it
            self._rename_damaged(step, damaged[step])
        for step in gone - damaged.keys():
            self.store.remove(name_of(step), MANIFEST)
        return bool(gone - damaged.keys())


def content_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's values without the entry `sha256`, which stores it."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _signed(manifest: Mapping[str, Any]) -> bytes:
    """Return the content of a manifest's file: its values with their SHA-256."""
    return (json.dumps({**manifest, "sha256": content_digest(manifest)}, indent=1) + "\n").encode()


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
