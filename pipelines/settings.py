"""The settings of a run."""

import os
from dataclasses import dataclass, field

from open_diht.common.devices import AUTO
from open_diht.filters.presets import Preset
from open_diht.filters.spotting.spotter import SpotterSettings
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.hub.publisher import Publisher
from open_diht.pipelines.options import EXPORTS, INDEX, SHARDS, STAGES
from open_diht.pipelines.runners import Backend, Direct
from open_diht.pipelines.store.storage import StorePath

__all__ = ["EXPORTS", "INDEX", "SHARDS", "STAGES", "RunSettings"]


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """The model of stage `score`, and the device that it computes on."""

    model: str
    """open_clip:<model>:<weights>, local-dir:<folder>, or reference (the evaluation's model,
    offline)."""
    device: str = AUTO
    """Device in torch's notation. cuda takes all GPUs, with runner `direct` at most one process for
    each. auto means cuda if torch sees a GPU on this machine, and otherwise cpu."""
    precision: str = AUTO
    """bf16, fp32 or auto. auto means the precision of this model's scores in the output. Without
    such scores it means bf16 if the device supports it, and otherwise fp32."""
    batch_size: int | None = None
    """Images per batch, by default 32, or 256 on a GPU. Batches are filled up to this number."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
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
    license: str | None = None
    """License of the results in their data set card. By default it is the source's license."""
    stages: tuple[str, ...] = STAGES
    """Stages to run, from `STAGES` and plugins. A filter whose stage does not run rejects
    nothing. `download` applies only to manifests with URLs and no images, `score` only if a
    model is given."""
    lean: bool = False
    """Do not parse captions without a possible verb. A preset that requires an action rejects these
    captions anyway. Their other annotations stay null. Only for runs on captions alone."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Number of units at a time for which the input is cut. `direct` and Flink also run at most
    this many at the same time; the other runners decide that themselves."""
    backend: Backend = field(default_factory=Direct)
    """The backend that runs the units."""
    shard: tuple[int, int] | None = None
    """(i, n): annotate every n-th unit, starting at unit i, 0 <= i < n. A run without a shard
    completes the output, and so does the last shard if no unit is missing then."""
    unit_rows: int | None = None
    """Approximate rows of a unit, where a file can be divided. The default depends on the size of
    the input and on `workers`. The first run on an output folder fixes the number."""
    export: str = SHARDS
    """Export format, one of `EXPORTS`. shards: new tars; index: the input's tars stay, and an index
    of each lists the kept samples that training can use."""
    # Scraped manifests have some bad rows; more than a few percent suggest a wrong column or
    # damaged files.
    max_dead_share: float = 0.05
    """Fraction of dead-letter rows above which the exit status is 1."""
    download: DownloadSettings = field(default_factory=DownloadSettings)
    """Settings of the image download, for manifests with URLs and no images."""
    spotter: SpotterSettings | None = None
    """Settings of the OCR. With None those of the preset's section `ocr`."""
    decontaminate: str | None = None
    """Evaluation sets whose images are rejected: names of suites and tasks, folders of images and
    Parquet files, comma-separated. With None, no image is compared."""
    score: ScoreSettings | None = None
    """Model that scores how well images and captions match. With None there are no scores."""
    command: tuple[str, ...] = ()
    """The command line, recorded in run.json."""
    plugins: tuple[str, ...] = ()
    """Modules of user plugins, recorded in run.json."""

    @property
    def ocr(self) -> SpotterSettings:
        """Settings of the OCR: `spotter`, or those of the preset."""
        return self.spotter or self.preset.ocr.settings()
