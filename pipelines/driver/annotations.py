"""What a run asks of captions and images: units whose annotations are committed are skipped, the others done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.settings import STAGES, RunSettings
from open_diht.pipelines.stages.annotator import Annotator, registered_annotators
from open_diht.pipelines.stages.captions import CaptionAnnotation
from open_diht.pipelines.stages.cascade import StageFilter
from open_diht.pipelines.stages.columns import ColumnAnnotation
from open_diht.pipelines.stages.download import DownloadAnnotation
from open_diht.pipelines.stages.score.annotation import ScoreAnnotation
from open_diht.pipelines.stages.spotting import SpottingAnnotation

BUILT_IN: tuple[type[Annotator], ...] = (
    ColumnAnnotation,
    CaptionAnnotation,
    DownloadAnnotation,
    SpottingAnnotation,
    ScoreAnnotation,
)
"""The annotators that come along, in the order in which they run."""


def known_annotators() -> tuple[type[Annotator], ...]:
    """Those that come along, and those that were registered."""
    return *BUILT_IN, *registered_annotators()


def stage_names() -> tuple[str, ...]:
    """What people may ask for, in the order of the cascade."""
    *annotating, dedup, export = STAGES
    return *annotating, *(kind.name for kind in registered_annotators()), dedup, export


class Annotations:
    """The annotations of one run's units, by all stages that annotate."""

    def __init__(self, settings: RunSettings, work: Work):
        self._work = work
        self._annotators = [kind(settings, work) for kind in known_annotators()]

    def make(self, units: Sequence[str]) -> None:
        """Make those of the units that are missing; what fails is set aside."""
        for one in self._annotators:
            one.make(self._work.alive(units))

    def undone(self, units: Sequence[str]) -> list[str]:
        """Those of the units that still lack annotations, of themselves or of an image unit."""
        if not units:
            return []
        found = {unit for one in self._annotators for unit in one.undone(units)}
        return [unit for unit in units if unit in found]

    def judges(self) -> tuple[StageFilter, ...]:
        """What decides by annotations that the cascade does not know, once all units are annotated."""
        running = [one for one in self._annotators if one.runs]
        sources = self.sources([unit.name for unit in self._work.units()])
        for one in running:
            one.conclude(sources)
        return tuple(judge for one in running if (judge := one.judge()) is not None)

    def sources(self, units: Sequence[str]) -> dict[str, list[Any]]:
        """What the annotations of each unit depend on; it changes when they do."""
        found: dict[str, list[Any]] = {unit: [] for unit in units}
        for one in self._annotators:
            for unit, parts in one.sources(units).items():
                found[unit] += parts
        return found
