"""What a run asks of a stage that annotates: its units, which of them are done, what is decided by them.

An annotator stands in the file of its stage. One of your own is registered with `register_annotator`, and runs after
those that come along.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from open_diht.pipelines.engine.engine import Engine
from open_diht.pipelines.engine.stage import Stage
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.cascade import StageFilter
from open_diht.pipelines.store.names import unit_of
from open_diht.pipelines.store.storage import stamps


class Annotator(ABC):
    """A stage's part in a run; made anew for every run."""

    name: ClassVar[str]
    """As people ask for it, and that of its stage."""
    always: ClassVar[bool] = False
    """Whether it runs where it is not asked for too: the others stand on what it writes."""
    lasting: ClassVar[bool] = False
    """Whether decisions depend on what earlier runs have left of it where it does not run."""

    def __init__(self, settings: RunSettings, work: Work):
        self.settings, self.work = settings, work

    @property
    def runs(self) -> bool:
        """Whether it is part of this run."""
        return self.always or self.name in self.settings.stages

    @abstractmethod
    def stage(self) -> Stage:
        """What does its units."""

    def units(self, units: Sequence[str]) -> list[str]:
        """Names of its units, of these units of the plan."""
        return list(units)

    def is_done(self, stage: Stage, unit: str, record: dict[str, Any] | None) -> bool:
        """Whether a unit need not be done, given its commit record."""
        return stage.current(unit, record) is not None

    def announce(self, stage: Stage, todo: Sequence[str], records: Sequence[dict[str, Any]], of: int) -> str | None:
        """What to tell a person before units are done; `records` are those that some of them have already."""
        return None

    def total(self, stage: Stage, todo: Sequence[str]) -> int | None:
        """What the units will count, where that is known."""
        return None

    @property
    def engine(self) -> Engine:
        """What does its units."""
        return self.work.engine

    def finish(self, stage: Stage, todo: Sequence[str]) -> None:  # noqa: B027  # few have something to look at
        """Look at what all units say together."""

    def source(self, record: dict[str, Any]) -> Any:
        """What of a commit record decisions depend on."""
        return record["fingerprint"]

    def conclude(self, sources: Mapping[str, Sequence[Any]]) -> None:  # noqa: B027  # few need others' rows
        """Find what only all units together say, once all are annotated; `sources` says what the annotations of each
        depend on."""

    def judge(self) -> StageFilter | None:
        """Decides by what was annotated, where the cascade does not do so already; asked after `conclude`."""
        return None

    # ---- the same for all

    def make(self, units: Sequence[str]) -> None:
        """Do what is missing of these units of the plan."""
        if not self.runs:
            if stamps(self.work.layout.commits(self.name), ".json"):  # what is there must hold: other stages read it
                for _ in self.work.done(self.name, self.units(units)):
                    pass
            return
        stage, names = self.stage(), self.units(units)
        found = self.work.done(self.name, names)
        missing = [(name, record) for name, record in found if not self.is_done(stage, name, record)]
        todo = [name for name, _ in missing]
        known = [record for _, record in missing if record is not None]
        if todo and (said := self.announce(stage, todo, known, len(names))):
            self.work.say(f"{self.name}: {said}")
        self.work.do(stage, todo, engine=self.engine, of=len(names), total=self.total(stage, todo) if todo else None)
        if todo:
            self.finish(stage, todo)

    def undone(self, units: Sequence[str]) -> set[str]:
        """Those of the units of the plan of which something is missing."""
        if not self.runs:
            return set()
        stage, records = self.stage(), self.work.done(self.name, self.units(units))
        return {unit_of(name) for name, record in records if not self.is_done(stage, name, record)}

    def sources(self, units: Sequence[str]) -> dict[str, list[Any]]:
        """What of units of the plan decisions depend on."""
        found: dict[str, list[Any]] = {}
        if self.runs or self.lasting:
            for name, record in self.work.records(self.name, self.units(units)):
                if record is not None:
                    found.setdefault(unit_of(name), []).append(self.source(record))
        return found


_Kind = TypeVar("_Kind", bound=type[Annotator])
_registered: dict[str, type[Annotator]] = {}


def register_annotator(kind: _Kind) -> _Kind:
    """Make an annotator known, under its name. Use it as a decorator.

    Raises:
        ValueError: another one has its name.
    """
    known = _registered.setdefault(kind.name, kind)
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(f"stage {kind.name!r} of {kind.__name__} is {known.__name__}'s; choose another name")
    _registered[kind.name] = kind
    return kind


def registered_annotators() -> tuple[type[Annotator], ...]:
    """Those of `register_annotator`, in order."""
    return tuple(_registered.values())
