"""The settings of a run."""

import os
from dataclasses import dataclass, field

from open_diht.common.devices import DeviceSettings
from open_diht.filters.presets import Preset
from open_diht.filters.spotting.spotter import SpotterSettings
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.hub.publisher import Publisher
from open_diht.pipelines.options import EXPORTS, INDEX, SHARDS, STAGES, RunOptions
from open_diht.pipelines.runners import Backend, Direct
from open_diht.pipelines.store.storage import StorePath

__all__ = ["EXPORTS", "INDEX", "SHARDS", "STAGES", "RunSettings"]


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(DeviceSettings):
    """The model of stage `score`, and its device."""

    model: str
    """open_clip:<model>:<weights>, local-dir:<folder>, or reference (the evaluation's model,
    offline)."""


@dataclass(frozen=True, kw_only=True)
class RunSettings(RunOptions):
    """The settings of a run.

    Examples:
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
    """The data set, which defines how manifests are read."""
    input: str
    """Pattern, folder, file or comma-separated list of manifests."""
    output: StorePath
    """Output folder, on a disk or in an object store."""
    preset: Preset
    """Filters and their thresholds."""
    publisher: Publisher | None = None
    """Publishes the files in `output` when the run is complete. With None, nothing is published."""
    stages: tuple[str, ...] = STAGES
    """Stages to run, from `STAGES` and plugins. A filter whose stage does not run rejects
    nothing. `download` applies only to manifests with URLs and no images, `score` only if a
    model is given."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Number of units at a time for which the input is cut. `direct` and Flink also run at most
    this many at the same time; the other runners choose the number themselves."""
    backend: Backend = field(default_factory=Direct)
    """The backend that runs the units."""
    shard: tuple[int, int] | None = None
    """(i, n): annotate every n-th unit, starting at unit i, 0 <= i < n. A run without a shard
    completes the output, and so does the last shard if no unit is missing then."""
    download: DownloadSettings = field(default_factory=DownloadSettings)
    """Settings of the image download, for manifests with URLs and no images."""
    spotter: SpotterSettings | None = None
    """Settings of the OCR. With None those of the preset's section `ocr`."""
    score: ScoreSettings | None = None
    """Model that scores how well images and captions match. With None there are no scores."""
    command: tuple[str, ...] = ()
    """The command line, recorded in run.json."""
    plugins: tuple[str, ...] = ()
    """Modules of user plugins, recorded in run.json."""

    @property
    def earlier(self) -> tuple[str, ...]:
        """The earlier outputs to compare with: those of `against`, or of the preset."""
        if self.against is None:
            return self.preset.against.outputs
        return tuple(name.strip() for name in self.against.split(","))

    @property
    def ocr(self) -> SpotterSettings:
        """Settings of the OCR: `spotter`, or those of the preset."""
        return self.spotter or self.preset.ocr.settings()
