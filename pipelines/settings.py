"""What a run is asked to do, and how it ended."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from filters.presets import Preset
from filters.spotting.spotter import SpotterSettings
from pipelines.datasets import Dataset
from pipelines.storage import Place

STAGES = ("captions", "spotting", "export")


class WrongUse(ValueError):
    """The run cannot start as asked; nothing was written. The message names the remedy."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is asked to do."""

    dataset: Dataset
    """How the manifests are read."""
    input: str
    """Pattern, folder, file or comma-separated list of manifests."""
    output: Place
    """Folder of everything that is written, on a disk or in an object store."""
    preset: Preset
    """Thresholds."""
    stages: tuple[str, ...] = STAGES
    """Which of `STAGES` are asked for; a filter whose stage is not asked for decides nothing."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Worker processes."""
    shard: tuple[int, int] | None = None
    """(i, n): this invocation does every n-th unit, counted from i = 0. The last of them to end finishes the run, and
    so does a run without shard."""
    unit_rows: int | None = None
    """Rows of a unit; None: by size of the input and cores. Fixed by the first run on an output folder."""
    max_dead_share: float = 0.05
    """Above this share of dead letters the exit status is 1."""
    spotter: SpotterSettings = field(default_factory=SpotterSettings)
    """How pictures are read."""
    command: tuple[str, ...] = ()
    """The command line, for the provenance."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    funnel: dict[str, Any] | None
    """What funnel.json says; None where a shard has done its part and others have not yet."""
    status: int
    """0: all is well; 1: dead letters beyond the allowed share, units that could not be read or were set aside."""
