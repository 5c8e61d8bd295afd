"""Checkpoints in an object store.

    checkpoints/step-000000001000/    as on a disk; the manifest comes last, and without it there is no checkpoint

Torch reads and writes files, so a checkpoint passes through a folder on the disk, where one is at a time. It is written
there while the training waits, as on a disk, and brought to the store while it goes on.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from open_diht.common.files import published_folder, remove_temporaries
from open_diht.trainer.checkpoint import (
    CANNOT_WRITE,
    MANIFEST,
    MODEL,
    TRAINING,
    Checkpoint,
    CheckpointError,
    Checkpoints,
    step_of,
)
from open_diht.trainer.config import CheckpointSettings
from open_diht.trainer.remote import RemoteFolder
from open_diht.trainer.uploads import Uploads

_WORTH_A_LINE_S = 1.0


class StoredCheckpoints(Checkpoints):
    """As `Checkpoints`. Ranks of a machine share the folder on its disk.

    Args:
        store: the folder of the checkpoints.
        folder: the one on the disk.
        settings: what is kept.
        uploads: brings saved ones to the store; None: nothing is saved.
        before: is called before anything is changed in the store, and may raise.
        say: gets a line where the training had to wait.
    """

    def __init__(
        self,
        store: RemoteFolder,
        folder: Path,
        settings: CheckpointSettings | None = None,
        uploads: Uploads | None = None,
        before: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda text: None,
    ):
        super().__init__(folder, settings)
        self._store, self._uploads, self._before, self._say = store, uploads, before, say

    def __str__(self) -> str:
        return str(self._store)

    def name(self, step: int) -> str:
        """URL of a step."""
        return f"{self._store}/{self.path(step).name}"

    def steps(self) -> list[int]:
        """Those with a manifest; one that is on its way does not count."""
        found = (path.split("/") for path in self._store.files())
        return sorted(step for folder, *rest in found if rest == [MANIFEST] and (step := step_of(folder)) is not None)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint to the disk, and have it brought to the store. Waits for the one before to be there; its
        error is raised now. Its folder on the disk."""
        assert self._uploads is not None, "checkpoints that are read"
        waited_s = self._uploads.wait()
        if waited_s > _WORTH_A_LINE_S:
            self._say(f"step {checkpoint.step:,}: {waited_s:.0f} s waited until the checkpoint before was in {self}")
        self._clear()
        try:
            super()._write(checkpoint)
        except CANNOT_WRITE as error:
            raise CheckpointError(
                f"the checkpoint of step {checkpoint.step} could not be written to {self.folder}, by way of which it "
                f"goes to {self}: {error}; make room there, or set data.cache_folder, and the same command goes on "
                "from the one before"
            ) from error
        saved = replace(checkpoint, model={}, training={})
        self._uploads.later(lambda: self._upload(saved))
        return self.path(checkpoint.step)

    def let_go(self) -> None:
        """The whole folder on the disk."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _upload(self, saved: Checkpoint) -> None:
        self._before()
        super().save(saved)

    def _write(self, saved: Checkpoint) -> None:
        folder = self.path(saved.step)
        self._store.upload_folder(folder, folder.name, last=MANIFEST)

    def _manifest_bytes(self, step: int) -> bytes:
        return self._store.read(self.path(step).name, MANIFEST)

    def _at_hand(self, step: int) -> Path:
        """Fetched, once for all ranks of a machine."""
        path, manifest = self.path(step), self._manifest_bytes(step)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or (path / MANIFEST).read_bytes() != manifest:
                self._clear()
                with published_folder(path) as temporary:
                    for name in (MODEL, TRAINING):
                        with suppress(FileNotFoundError):  # that it is missing is found when all is verified
                            self._store.download(temporary / name, path.name, name)
                    (temporary / MANIFEST).write_bytes(manifest)
        return path

    def _names(self) -> list[str]:
        return sorted({path.partition("/")[0] for path in self._store.files() if "/" in path})

    def _set_aside(self, step: int, name: str) -> None:
        self._store.move(self.path(step).name, name)

    def _remove(self, step: int) -> None:
        self._store.remove(self.path(step).name, MANIFEST)
        self._store.remove_folder(self.path(step).name)

    def _sweep(self) -> None:
        """What was not finished."""
        whole = set(self.steps())
        for name in self._names():
            step = step_of(name)
            if step is not None and step not in whole:
                self._store.remove_folder(name)

    def _clear(self) -> None:
        """Make room on the disk."""
        remove_temporaries(self.folder)
        for path in self.folder.glob("*"):
            if step_of(path.name) is not None:
                shutil.rmtree(path)
