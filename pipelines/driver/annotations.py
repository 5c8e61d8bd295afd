"""The stages of a run in their order: annotate the units whose annotations are not committed, then
decide."""

from collections.abc import Sequence

from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.settings import STAGES, RunSettings
from open_diht.pipelines.stages.against import Against
from open_diht.pipelines.stages.annotator import Annotator, Made, RunStage, registered_annotators
from open_diht.pipelines.stages.captions import CaptionStage
from open_diht.pipelines.stages.columns import ColumnStage
from open_diht.pipelines.stages.decide import Decision
from open_diht.pipelines.stages.decontamination import FingerprintStage
from open_diht.pipelines.stages.dedup.deduplication import Deduplication
from open_diht.pipelines.stages.download import DownloadStage
from open_diht.pipelines.stages.export import Export
from open_diht.pipelines.stages.score.stage import ScoreStage
from open_diht.pipelines.stages.spotting import SpottingStage
from open_diht.pipelines.stages.tally import VERSION
from open_diht.pipelines.store.layout import unit_of
from open_diht.pipelines.store.records import fingerprint_of
from open_diht.pipelines.store.storage import stamps

ANNOTATING: tuple[type[Annotator], ...] = (
    ColumnStage,
    CaptionStage,
    DownloadStage,
    SpottingStage,
    ScoreStage,
    FingerprintStage,
)
"""The annotating stages of this program, in the order in which they run. Those of plugins
follow."""
DECIDING: tuple[type[RunStage], ...] = (Against, Deduplication, Decision, Export)
"""The stages after all that annotate, in the order in which they run."""


def stages_in_order() -> tuple[type[RunStage], ...]:
    """Return the stages of this program and of plugins, in the order in which they run."""
    return *ANNOTATING, *registered_annotators(), *DECIDING


def stage_names() -> tuple[str, ...]:
    """Return the valid names in STAGES, in the order of the cascade."""
    *annotating, dedup, export = STAGES
    return *annotating, *(kind.name for kind in registered_annotators()), dedup, export


class Annotations:
    """The annotations of a run's units by all annotating stages, built in or registered by
    plugins."""

    def __init__(self, settings: RunSettings, work: Work):
        self._settings = settings
        self._work = work
        self._kinds = (*ANNOTATING, *registered_annotators())

    def make(self, units: Sequence[str]) -> None:
        """Run the stages one after another, each on its units that are neither done nor failed."""
        work = self._work
        for kind in self._kinds:
            names = kind.units(work, work.alive(units))
            if not kind.runs(self._settings):
                if stamps(work.layout.commits(kind.name), ".json"):
                    # Other stages read these files, so verify them.
                    for _ in work.done(kind.name, names):
                        pass
                continue
            stage = kind.of_run(self._settings, work)
            missing = work.missing(stage, names)
            if not missing:
                continue
            todo = list(missing)
            records = [record for record in missing.values() if record is not None]
            if line := stage.announce(work, todo, records, len(names)):
                work.say(f"{stage.name}: {line}")
            total = stage.total(work, todo)
            work.run(stage, todo, of=len(names), total=total, workers=stage.workers(work))
            stage.finish(work, todo)

    def undone(self, units: Sequence[str]) -> list[str]:
        """Return the units that lack annotations of their rows or of one of their image units."""
        work = self._work
        lacking = set[str]()
        for kind in self._kinds if units else ():
            if kind.runs(self._settings):
                missing = work.missing(kind.of_run(self._settings, work), kind.units(work, units))
                lacking.update(map(unit_of, missing))
        return [unit for unit in units if unit in lacking]

    def decided(self) -> Made:
        """Run the stages that decide by the annotations, and return what all stages have made. All
        units that have not failed must be annotated."""
        settings = self._settings
        work = self._work
        running = [kind for kind in self._kinds if kind.runs(settings)]
        sources: dict[str, list[object]] = {unit.name: [] for unit in work.units()}
        for kind in self._kinds:
            if kind in running or kind.lasting:
                for name, record in work.records(kind.name, kind.units(work, [*sources])):
                    if record is not None:
                        sources[unit_of(name)].append(kind.source(record))
        row_filters = [kind.row_filter(settings, work, sources) for kind in running]
        filters = tuple(row_filter for row_filter in row_filters if row_filter is not None)
        later = {kind.name for kind in DECIDING}
        base = fingerprint_of(
            settings.preset.filters_fingerprint,
            VERSION,
            [stage for stage in settings.stages if stage not in later],
            settings.dataset.images_root,
            *(one.fingerprint for one in filters),
        )
        states = {unit: fingerprint_of(base, parts) for unit, parts in sources.items()}
        made = Made(settings, work, filters, states, annotated=bool(work.seconds))
        for stage in stages_in_order():
            stage.contribute(made)
        return made
