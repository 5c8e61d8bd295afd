"""The bases of the stages of a run, and the registry of the stages that plugins add.

`RunStage` has the calls of the driver, which are the same for all stages, in their order. An
annotating stage is one class. On a worker it processes units, as every `Stage` does. On the driver
it tells which units there are, which of them are done, and what their annotations decide.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from open_diht.common.plugins import Registry
from open_diht.filters.cascade import StageFilter
from open_diht.filters.dedup import DuplicateCounts
from open_diht.pipelines.engine.stage import Stage
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.settings import STAGES, RunSettings
from open_diht.pipelines.store.records import CommitRecord


@dataclass(frozen=True)
class DuplicateFiles:
    """The files of a kind, `part_name(0)` to `part_name(count - 1)`, and whether the kind
    rejects."""

    kind: str
    count: int
    rejects: bool


@dataclass(frozen=True)
class DuplicateFindings:
    """The duplicates that stage `decide` and the funnel need."""

    files: tuple[DuplicateFiles, ...] = ()
    """Files of each kind that was compared, in order."""
    fingerprint: str = ""
    """A value that changes with the findings of the kinds that reject."""
    counts: Mapping[str, DuplicateCounts] = field(default_factory=dict)
    """Counts of each kind."""


@dataclass
class Made:
    """The state of a run: what its stages have made so far, for the stages after them."""

    settings: RunSettings
    work: Work
    filters: tuple[StageFilter, ...]
    """Filters of stages, which decide in addition to the preset."""
    states: dict[str, str]
    """For each unit that has not failed, a hash of all that its filters decide by."""
    annotated: bool
    """Whether this run has annotated anything."""
    findings: DuplicateFindings = field(default_factory=DuplicateFindings)
    decided: dict[str, str] = field(default_factory=dict)
    """For each unit that is decided, a hash of all that its decisions depend on."""


class RunStage:
    """A stage as the driver of a run sees it: each run makes these calls to all stages, including
    those that are not part of it, in the order of `stages_in_order`."""

    name: str
    """Name of the stage in STAGES."""
    opens_paths: ClassVar[bool] = True
    """Whether the stage reads images by the paths in the manifests."""
    opens_loose: ClassVar[bool] = True
    """Whether the stage needs images, which may lie next to manifests that do not name them."""

    @classmethod
    def runs(cls, settings: RunSettings) -> bool:
        """Return whether the stage is part of a run."""
        return cls.name in settings.stages

    @classmethod
    def applies(cls, settings: RunSettings, plan: Plan) -> bool:
        """Return whether the input and the settings give the stage anything to do; if not, the run
        leaves it out."""
        return True

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        """Check before the first unit that the stage has what it needs in this run.

        A run calls this for all stages, including those that are not part of the run: first without
        a plan, so that a wrong setting is refused before manifests are listed, and then with the
        plan and the stages that apply.

        Args:
            settings: the run's settings.
            plan: the units and the manifest files, or None before they are listed.
            say: receives lines for the terminal.

        Raises:
            WrongUse: something is missing or contradicts something else; nothing was written.
        """

    @classmethod
    def contribute(cls, made: Made) -> None:
        """Do what needs all units, once they are annotated; shards at work do it together.

        Args:
            made: what the run has made so far, to which the stage adds its own.
        """

    @classmethod
    def count(cls, made: Made, funnel: FunnelRecord) -> None:
        """Add the stage's counts to the funnel, which has those of the decisions.

        Args:
            made: what the run has made.
            funnel: the counts that funnel.json will have.
        """

    @classmethod
    def conclude(cls, made: Made, funnel: FunnelRecord) -> None:
        """Write what only one process may write, after the check that the results hold each row
        once.

        Args:
            made: what the run has made.
            funnel: the counts that funnel.json will have.
        """


class Annotator(RunStage, Stage):
    """A stage that annotates rows or images. Each run creates its own instances of the classes."""

    lasting: ClassVar[bool] = False
    """Whether the annotations of earlier runs also count in a run without the stage."""

    @classmethod
    @abstractmethod
    def of_run(cls, settings: RunSettings, work: Work) -> Self:
        """Create the stage for a run.

        Args:
            settings: the run's settings.
            work: the run's work.

        Returns:
            The stage, which Beam pickles to send it to the workers.
        """

    @classmethod
    def units(cls, work: Work, units: Sequence[str]) -> list[str]:
        """Return the names of the stage's units that belong to caption units.

        Args:
            work: the run's work.
            units: names of the caption units.

        Returns:
            The names; by default those of the caption units.
        """
        return list(units)

    def announce(
        self, work: Work, todo: Sequence[str], records: Sequence[CommitRecord], of: int
    ) -> str | None:
        """Describe the work before units are processed.

        Args:
            work: the run's work.
            todo: the units that are not done.
            records: the commit records of the units in `todo` that have one.
            of: number of units of the stage.

        Returns:
            A line to print, or None.
        """
        return None

    def total(self, work: Work, todo: Sequence[str]) -> int | None:
        """Count what the units will report as progress.

        Args:
            work: the run's work.
            todo: the units that are not done.

        Returns:
            The total of their heartbeats, or None if it is unknown.
        """
        return None

    def workers(self, work: Work) -> int | None:
        """Return how many units run at a time.

        Args:
            work: the run's work.

        Returns:
            Number of worker processes, or None for the run's default.
        """
        return None

    def finish(self, work: Work, todo: Sequence[str]) -> None:
        # Not abstract: most stages need no such step.
        """Do the work that needs all units, after each of `todo` is done or has failed. Not called
        if `todo` is empty.

        Args:
            work: the run's work.
            todo: the units that were not done before.
        """

    @classmethod
    def source(cls, record: CommitRecord) -> object:
        """Return the part of a commit record that decisions depend on.

        Args:
            record: the commit record of a unit of this stage.

        Returns:
            A value that JSON can hold, by default the fingerprint. If it changes, the caption unit
            is decided again.
        """
        return record["fingerprint"]

    @classmethod
    def row_filter(
        cls, settings: RunSettings, work: Work, sources: Mapping[str, Sequence[object]]
    ) -> StageFilter | None:
        """Create the filter that decides by the annotations.

        All units that have not failed are annotated by now, so this method may first process them
        together.

        Args:
            settings: the run's settings.
            work: the run's work.
            sources: for each unit, the state that its annotations depend on.

        Returns:
            The filter, or None if the cascade already decides by these annotations.
        """
        return None


_Kind = TypeVar("_Kind", bound=type[Annotator])
_registered: Registry[type[Annotator]] = Registry(
    "stage {name!r} of {new} is taken by {old}; choose another name"
)


def register_annotator(kind: _Kind) -> _Kind:
    """Register a stage under its name. Use it as a decorator.

    Args:
        kind: the class, a subclass of `Annotator`.

    Returns:
        The same class.

    Raises:
        ValueError: `STAGES`, an imported stage of this package, or another registered stage has
            this name. The command line imports all its stages before it loads plugins.
    """
    ours = {
        getattr(one, "name", "")
        for one in _kinds_of(Stage)
        if one.__module__.startswith("open_diht.")
    }
    if kind.name in {*ours, *STAGES}:
        raise ValueError(
            f"stage {kind.name!r} of {kind.__name__} is taken by this program; choose another name"
        )
    _registered.add(kind.name, kind)
    return kind


def _kinds_of(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield from (one, *_kinds_of(one))


def registered_annotators() -> tuple[type[Annotator], ...]:
    """Return the stages registered with `register_annotator`, in the order of registration."""
    return tuple(_registered.values())
