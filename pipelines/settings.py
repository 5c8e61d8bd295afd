"""What a run is asked to do."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from open_diht.common.devices import AUTO
from open_diht.filters.presets import Preset
from open_diht.filters.spotting.spotter import SpotterSettings
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.fetch import DownloadSettings
from open_diht.pipelines.hub.publisher import Publisher
from open_diht.pipelines.options import EXPORTS, INDEX, SHARDS, STAGES
from open_diht.pipelines.runners import Backend, Direct
from open_diht.pipelines.store.storage import StorePath

__all__ = ["EXPORTS", "INDEX", "SHARDS", "STAGES", "RunSettings"]


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """The model of stage `score`, and the device that it computes on."""

    model: str
    """open_clip:<model>:<weights>, local-dir:<folder>, or reference (the evaluation's, offline)."""
    device: str = AUTO
    """torch's name; cuda: all GPUs, with a process each; auto: cuda where this machine has one, else cpu."""
    precision: str = AUTO
    """bf16, fp32 or auto: what the output has of this model, or else bf16 where the device has it."""
    batch_size: int | None = None
    """Images the model sees at a time; None: 32, and 256 on a GPU. Batches are filled up to it."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a run is asked to do.

    Example:
        >>> from pathlib import Path
        >>> from open_diht import RunSettings, load_dataset, load_preset, run
        >>> settings = RunSettings(
        ...     dataset=load_dataset("sample"),
        ...     input="data/sample/manifest.tsv",
        ...     output=Path("out/sample"),
        ...     preset=load_preset("paper"),
        ...     stages=("captions",),
        ... )
        >>> settings.max_dead_share
        0.05
    """

    dataset: Dataset
    """How the manifests are read."""
    input: str
    """Pattern, folder, file or comma-separated list of manifests."""
    output: StorePath
    """Folder of everything that is written, on a disk or in an object store."""
    preset: Preset
    """Thresholds."""
    publisher: Publisher | None = None
    """Publishes what lies in `output` when the run is finished."""
    licence: str | None = None
    """Of the results, for their card; None: unknown."""
    stages: tuple[str, ...] = STAGES
    """Which of `STAGES` are asked for; a filter whose stage is not asked for decides nothing. `download` applies only
    to manifests with urls and no images, `score` only where a model is named."""
    lean: bool = False
    """Captions without a word that may be a verb are not parsed: a preset that asks for an action rejects them anyway,
    and no more is known of them. Only for runs on captions alone."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Units that may run at the same time: worker processes, or a cluster's slots."""
    backend: Backend = field(default_factory=Direct)
    """Where the work is done."""
    shard: tuple[int, int] | None = None
    """(i, n): this invocation does every n-th unit, counted from i = 0. The last of them to end finishes the run, and
    so does a run without shard."""
    unit_rows: int | None = None
    """Rows of a unit; None: by size of the input and cores. Fixed by the first run on an output folder."""
    export: str = SHARDS
    """Of `EXPORTS`. shards: as new tars; index: the input's own tars stay, and an index of each names the survivors."""
    max_dead_share: float = 0.05
    """Above this proportion of dead letters the exit status is 1."""
    download: DownloadSettings = field(default_factory=DownloadSettings)
    """How images are fetched, where a manifest has urls and no images."""
    spotter: SpotterSettings = field(default_factory=SpotterSettings)
    """How images are read."""
    score: ScoreSettings | None = None
    """With what image and caption are scored; None: they are not."""
    command: tuple[str, ...] = ()
    """The command line, for the provenance."""
    plugins: tuple[str, ...] = ()
    """Modules with filters of the user's own, for the provenance."""
