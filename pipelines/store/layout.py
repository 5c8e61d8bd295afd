"""Where everything lies in an output folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from open_diht.pipelines.store.storage import StorePath, is_local

KINDS = ("kept", "rejected", "dead_letter")
"""What becomes of rows: each kind has a part of every unit that has such rows."""
CARD = "README.md"
"""The data set card."""
CARD_MARK = "<!-- A card of open-diht; without this line it is yours, and the next publication leaves it alone. -->"
_OF_STAGES = ("commits", "data", "dead", "failed", "progress", "begun")
"""Folders that a stage may have in its folder of `work/`."""


@dataclass(frozen=True)
class Layout:
    """Paths of one output folder."""

    root: StorePath

    @property
    def work(self) -> StorePath:
        """Annotations and commit records; needed for resuming and for other presets."""
        return self.root / "work"

    @property
    def scratch(self) -> Path:
        """A local folder for what only this machine needs: progress and logs."""
        work = self.work
        if is_local(work):
            return work
        name = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"diht-{os.getuid()}-{name}"  # containers have users without names

    @property
    def plan(self) -> StorePath:
        """The plan, see `open_diht.pipelines.manifests.plan`."""
        return self.work / "plan.json"

    @property
    def exported(self) -> StorePath:
        """Which decisions subset, shards and report were made from."""
        return self.work / "exported.json"

    def commits(self, stage: str) -> StorePath:
        """The folder of a stage's commit records."""
        return self.work / stage / "commits"

    def commit(self, stage: str, unit: str) -> StorePath:
        """The commit record of a unit."""
        return self.commits(stage) / f"{unit}.json"

    def fingerprints(self, stage: str) -> StorePath:
        """What each unit of a stage is done from, see `fingerprints`. One file a stage: a worker that outlives
        its driver must not read what a later stage is done from."""
        return self.work / stage / "fingerprints.json"

    def failed(self, stage: str, unit: str) -> StorePath:
        """Why a unit is set aside."""
        return self.work / stage / "failed" / f"{unit}.json"

    def data(self, stage: str, unit: str) -> StorePath:
        """The annotations of a unit."""
        return self.work / stage / "data" / f"{unit}.parquet"

    def slices(self, stage: str, unit: str) -> StorePath:
        """Records of a unit in parts, see dedup/slices.py."""
        return self.work / stage / "data" / f"{unit}.slices"

    def dead(self, unit: str) -> StorePath:
        """The broken rows that reading the manifest met in a unit."""
        return self.work / "captions" / "dead" / f"{unit}.parquet"

    def progress(self, stage: str, unit: str) -> Path:
        """Says that a unit is being worked on, and how many rows it has done so far."""
        return self.scratch / stage / "progress" / unit

    def part(self, kind: str, unit: str) -> StorePath:
        """A final part, of one of `KINDS`."""
        return self.root / kind / f"part-{unit}.parquet"

    def index(self, unit: str) -> StorePath:
        """The index of all samples of a tar of the input, called by the first of its units."""
        return self.work / "index" / "data" / f"{unit}.npz"

    @property
    def indexes(self) -> StorePath:
        """The indexes of the survivors in tars of the input."""
        return self.root / "index"

    def shards(self, unit: str) -> StorePath:
        """The first name of a unit's shards, without number and ending."""
        return self.root / "shards" / unit

    def folders(self) -> Iterator[StorePath]:
        """Yield the folders that runs write files into, whether they exist or not. Other folders of
        `work/` belong to the user: a stage's has commit records or marks of progress from its first unit on."""
        shards = self.root / "shards"
        yield from (self.root, *(self.root / kind for kind in KINDS), shards, shards / ".index", self.indexes)
        yield self.work
        for stage in self.work.iterdir() if self.work.is_dir() else ():
            if (stage / "progress").is_dir() or (stage / "commits").is_dir():
                yield from (stage, *(stage / name for name in _OF_STAGES))
