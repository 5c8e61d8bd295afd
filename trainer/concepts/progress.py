"""How far a head's training has come, kept so that a run that was killed goes on there.

`work/heads/<head>.pt` is written at most once in `EVERY_S` seconds, between pools of samples, and when a head is done.
It says what it was made from; a file of other data or settings, or one that cannot be read, counts as none.
"""

from __future__ import annotations

import io
import pickle
import time
import zipfile
from collections.abc import Mapping
from typing import Any

import torch

from open_diht.trainer.concepts.folder import Folder

EVERY_S = 60.0
_UNREADABLE = (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


class HeadProgress:
    """The states of a store's heads under training.

    Args:
        folder: of `make concepts`.
        fingerprint: of everything that the heads depend on.
    """

    def __init__(self, folder: Folder, fingerprint: str):
        self._folder, self._fingerprint = folder, fingerprint
        self._kept = time.monotonic()

    def load(self, head: str) -> dict[str, Any] | None:
        """The state of a head, None where there is none."""
        try:
            content = self._folder.read("work", "heads", f"{head}.pt")
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return dict(state["state"]) if state["fingerprint"] == self._fingerprint else None
        except (FileNotFoundError, *_UNREADABLE):
            return None

    @property
    def due(self) -> bool:
        """The last one was kept long enough ago."""
        return time.monotonic() - self._kept >= EVERY_S

    def keep(self, head: str, state: Mapping[str, Any]) -> None:
        """Publish the state of a head."""
        content = io.BytesIO()
        torch.save({"fingerprint": self._fingerprint, "state": dict(state)}, content)
        self._folder.publish(content.getvalue(), "work", "heads", f"{head}.pt")
        self._kept = time.monotonic()

    def forget(self) -> None:
        """Remove all states: the heads are done."""
        for name in self._folder.names("work", "heads", ending=".pt"):
            self._folder.remove("work", "heads", name)
