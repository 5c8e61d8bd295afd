"""The base of the stages that annotate, and the registry of those from plugins.

An annotating stage is one class. On a worker it does units, as every `Stage` does; on the driver it says which units
there are, which of them are done, and what their annotations decide.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

from open_diht.pipelines.engine.stage import Stage
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.cascade import StageFilter


class Annotator(Stage):
    """A stage that annotates rows or images. One is made for each use in a run; a register entry makes it known."""

    lasting: ClassVar[bool] = False
    """Whether decisions depend on the annotations of earlier runs in a run without the stage."""

    @classmethod
    def runs(cls, settings: RunSettings) -> bool:
        """Return whether the stage is part of a run."""
        return cls.name in settings.stages

    @classmethod
    @abstractmethod
    def of_run(cls, settings: RunSettings, work: Work) -> Self:
        """Make the stage for a run, once the stages before it are done."""

    @classmethod
    def units(cls, work: Work, units: Sequence[str]) -> list[str]:
        """Return the names of the stage's units that belong to caption units."""
        return list(units)

    def announce(self, work: Work, todo: Sequence[str], records: Sequence[dict[str, Any]], of: int) -> str | None:
        """Return a line to print before units are done.

        Args:
            work: the run's.
            todo: the units that are not done.
            records: the commit records that some of them have.
            of: number of units of the stage.
        """
        return None

    def total(self, work: Work, todo: Sequence[str]) -> int | None:
        """Return the sum of what the units will count, None where it is not known."""
        return None

    def workers(self, work: Work) -> int | None:
        """Return how many units run at a time, None for as many as in other stages."""
        return None

    def finish(self, work: Work, todo: Sequence[str]) -> None:  # few have something to look at
        """Look at all units together, after they are done."""

    @classmethod
    def source(cls, record: dict[str, Any]) -> Any:
        """Return the part of a commit record that decisions depend on."""
        return record["fingerprint"]

    @classmethod
    def judge(cls, settings: RunSettings, work: Work, sources: Mapping[str, Sequence[Any]]) -> StageFilter | None:
        """Return what decides by the annotations, where the cascade does not do so already. It may look at all units
        together first: all are annotated.

        Args:
            settings: the run's.
            work: the run's.
            sources: for each unit, what its annotations depend on.
        """
        return None


_Kind = TypeVar("_Kind", bound=type[Annotator])
_registered: dict[str, type[Annotator]] = {}


def register_annotator(kind: _Kind) -> _Kind:
    """Make a stage known under its name. Use it as a decorator.

    Raises:
        ValueError: another stage has this name.
    """
    known = _registered.setdefault(kind.name, kind)
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(f"stage {kind.name!r} of {kind.__name__} is {known.__name__}'s; choose another name")
    _registered[kind.name] = kind
    return kind


def registered_annotators() -> tuple[type[Annotator], ...]:
    """Return the stages of `register_annotator`, in order."""
    return tuple(_registered.values())
