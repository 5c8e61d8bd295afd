"""Where everything lies in an output folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths of one output folder."""

    root: Path

    @property
    def work(self) -> Path:
        """Annotations and commit records; needed for resuming and for other presets."""
        return self.root / "work"

    @property
    def plan(self) -> Path:
        """The plan, see plan.py."""
        return self.work / "plan.json"

    @property
    def exported(self) -> Path:
        """Which decisions subset, shards and report were made from."""
        return self.work / "exported.json"

    def commit(self, stage: str, unit: str) -> Path:
        """The commit record of a unit."""
        return self.work / stage / "commits" / f"{unit}.json"

    def data(self, stage: str, unit: str) -> Path:
        """The annotations of a unit."""
        return self.work / stage / "data" / f"{unit}.parquet"

    def dead(self, unit: str) -> Path:
        """The broken rows that reading the manifest met in a unit."""
        return self.work / "captions" / "dead" / f"{unit}.parquet"

    def progress(self, stage: str, unit: str) -> Path:
        """Rows a running unit has done so far; only for the eye."""
        return self.work / stage / "progress" / unit

    def part(self, kind: str, unit: str) -> Path:
        """A final part: kind is kept, rejected or dead_letter."""
        return self.root / kind / f"part-{unit}.parquet"

    def shards(self, unit: str) -> Path:
        """The first name of a unit's shards, without number and ending."""
        return self.root / "shards" / unit
