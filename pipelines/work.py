"""The units of a run: what is committed of them, what is missing, what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipelines.commit import read_json
from pipelines.engine import Engine
from pipelines.layout import Layout
from pipelines.plan import Plan, Unit
from pipelines.stages import Stage
from pipelines.stages.pieces import piece_name, unit_of
from pipelines.storage import each


class Work:
    """What all parts of one run share."""

    def __init__(self, layout: Layout, plan: Plan, engine: Engine, say: Callable[[str], None]):
        self.layout, self.plan, self.engine, self.say = layout, plan, engine, say
        self.set_aside: dict[str, dict[str, Any]] = {}
        """Units that are given up for this run, by name, with the record of what failed."""
        self.models: dict[str, Any] = {}
        """What each stage worked with, for the provenance."""

    def do(
        self, stage: Stage, todo: list[str], *, of: int, counted: str, noun: str, total: int | None = None
    ) -> dict[str, dict[str, Any]]:
        """Do the missing units of a stage (see `Engine.run`); what fails takes its unit out of all that follows."""
        failed = self.engine.run(stage, todo, of=of, counted=counted, noun=noun, total=total)
        self.give_up(failed)
        return failed

    def give_up(self, failed: dict[str, dict[str, Any]]) -> None:
        """Take these units, or the units of these pieces, out of all that follows."""
        self.set_aside |= {unit_of(name): record for name, record in failed.items()}

    def alive(self, names: Iterable[str]) -> list[str]:
        """Those of the units or pieces that are not given up."""
        return [name for name in names if unit_of(name) not in self.set_aside]

    def units(self) -> list[Unit]:
        """Units of the plan that are not given up."""
        return [unit for unit in self.plan.units if unit.name not in self.set_aside]

    def records(self, stage: str, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Units or pieces with their commit records, None where there is none."""
        asked = list(names)
        found = each(lambda name: read_json(self.layout.commit(stage, name)), asked, self.layout.root)
        return zip(asked, found, strict=True)

    def pieces(self, units: Iterable[str]) -> list[str]:
        """The picture units of caption units."""
        return [
            piece_name(unit, piece)
            for unit, record in self.records("captions", units)
            for piece in range(-(-int(record["rows"]) // self.plan.picture_rows) if record else 0)
        ]
