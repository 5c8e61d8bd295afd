"""The units of a run: what is committed of them, what is missing, what failed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from open_diht.common.naming import counted
from open_diht.pipelines.engine.engine import Engine
from open_diht.pipelines.engine.sharing import Sharing
from open_diht.pipelines.engine.stage import Stage, failure
from open_diht.pipelines.manifests import Unreachable, stamps_of
from open_diht.pipelines.manifests.files import difference
from open_diht.pipelines.plan import Plan, Unit
from open_diht.pipelines.store.commit import RunFailed, read_json, remove
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import image_unit_name, unit_of
from open_diht.pipelines.store.ownership import is_record
from open_diht.pipelines.store.records import Vouched, removed
from open_diht.pipelines.store.storage import each, is_local, stamps


class Work:
    """What all parts of one run share."""

    def __init__(self, layout: Layout, plan: Plan, engine: Engine, say: Callable[[str], None]):
        self.layout, self.plan, self.engine, self.say = layout, plan, engine, say
        self._input = stamps_of(str(entry["path"]) for entry in plan.files)
        self.changed: dict[str, str] = {}
        """Input files that somebody has written to since the run began, with how they differ."""
        self.set_aside: dict[str, dict[str, Any]] = {}
        """Units that are given up for this run, by name, with the record of what failed."""
        self.models: dict[str, Any] = {}
        """What each stage worked with, for the provenance."""
        self.sharing: Sharing | None = None
        """With whom units are shared; None: with nobody."""

    def do(
        self, stage: Stage, todo: list[str], *, of: int, total: int | None = None, engine: Engine | None = None
    ) -> dict[str, dict[str, Any]]:
        """Do the missing units of a stage (see `run`); what fails takes its unit out of all that follows."""
        failed = self.run(stage, todo, engine=engine, of=of, total=total)
        self.give_up(failed)
        return failed

    def run(
        self, stage: Stage, todo: list[str], *, engine: Engine | None = None, **how: Any
    ) -> dict[str, dict[str, Any]]:
        """As `Engine.run`, of this engine or another one; sees to it that every unit is committed or set aside. With
        `sharing`, by whoever is at work.

        Raises:
            RunFailed: some are neither: the output folder was removed, or takes no more.
        """
        engine = engine or self.engine
        if self.sharing is None:
            return self._run(stage, todo, engine, **how)

        def do(mine: list[str]) -> dict[str, dict[str, Any]]:
            others = len(todo) - len(mine)
            known = how if not others else {**how, "of": how["of"] - others, "total": None}
            return self._run(stage, mine, engine, **known)

        return self.sharing.run(stage, todo, do)

    def _run(self, stage: Stage, todo: list[str], engine: Engine, **how: Any) -> dict[str, dict[str, Any]]:
        failed = engine.run(stage, todo, **how)
        committed = stamps(self.layout.commits(stage.name), ".json") if todo else {}
        left = [unit for unit in todo if unit not in committed and unit not in failed]
        if left:
            if not self.layout.plan.exists():
                raise RunFailed(removed(self.layout))
            root = self.layout.root
            room = f", whose disk has {_room(root)}" if is_local(root) else ""
            raise RunFailed(
                f"{counted(len(left), 'unit')} of stage {stage.name} could be neither done nor set aside in OUTPUT "
                f"{root}{room}; the first is {left[0]}. What is committed stays: make room where there is none, and "
                "the same command goes on"
            )
        return failed

    def give_up(self, failed: dict[str, dict[str, Any]], fatal: bool = False) -> None:
        """Take these units, or the units of these image units, out of all that follows. `fatal`: nothing goes on
        without them.

        Raises:
            RunFailed: there are some, and it is fatal.
        """
        if failed and fatal:
            name, record = next(iter(failed.items()))
            stage, last = record["stage"], record["tries"][-1]
            raise RunFailed(
                f"stage {stage} failed at {name} ({last['error']}: {last['message']}); all about it: "
                f"{self.layout.failed(stage, name)}. The same command tries again"
            )
        self.set_aside |= {unit_of(name): record for name, record in failed.items()}

    def alive(self, names: Iterable[str]) -> list[str]:
        """Those of the units or image units that are not given up."""
        return [name for name in names if unit_of(name) not in self.set_aside]

    def units(self) -> list[Unit]:
        """Units of the plan that are not given up."""
        return [unit for unit in self.plan.units if unit.name not in self.set_aside]

    def records(self, stage: str, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Units or image units with their commit records, None where there is none."""
        asked = list(names)
        found = each(lambda name: read_json(self.layout.commit(stage, name)), asked, self.layout.root)
        return zip(asked, found, strict=True)

    def total(self, stage: str, names: Iterable[str], of: str = "rows") -> int:
        """What the commit records of these units or image units count, together."""
        return sum(int(record[of]) for _, record in self.records(stage, names))

    def done(self, stage: str, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """As `records`, of what holds: a record that is garbled, or whose files are gone or cut short, is taken back,
        so that its unit is done again."""
        vouched, withdrawn = Vouched(self.layout), 0
        asked = list(names)
        found = each(lambda name: vouched.read(self.layout.commit(stage, name)), asked, self.layout.root)
        for name, record in zip(asked, found, strict=True):
            holds = record is None or vouched.holds(record)
            withdrawn += not holds and vouched.withdraw(self.layout.commit(stage, name), record)
            yield name, record if holds else None
        if withdrawn:
            self.say(f"{stage}: the files of {counted(withdrawn, 'unit')} are gone or damaged, and are made again")

    def outdated(
        self, stage: str, names: Iterable[str], fingerprints: Mapping[str, str]
    ) -> list[tuple[str, dict[str, Any] | None]]:
        """Those of the units or image units that are not committed, or made from something else than `fingerprints`
        say, with their commit records."""
        return [
            (name, record)
            for name, record in self.done(stage, names)
            if not record or record["fingerprint"] != fingerprints[name]
        ]

    def give_up_changed(self) -> None:
        """Give up all units of the input files that have changed since the run began, so that no rows of two versions
        lie side by side."""
        found = self.find_changed()
        for unit in self.plan.units:
            if (path := unit.span.path) in found:
                tries = [failure("FileChanged", f"{path} {found[path]}")]
                self.give_up({unit.name: {"unit": unit.name, "stage": "manifest", "tries": tries}})

    def find_changed(self) -> dict[str, str]:
        """The input files that have changed since the run began or this was last asked."""
        try:
            now = stamps_of(self._input)
        except Unreachable as error:
            raise RunFailed(
                f"whether the input has changed since this run began cannot be told: {error}. The same command goes on"
            ) from error
        found = {path: difference(now[path]) for path, before in self._input.items() if now[path] != before}
        self._input = now
        self.changed |= found
        return found

    def take_back_changed(self) -> None:
        """Take back what is committed of input files that have changed, so that the next run makes it anew."""
        if not self.changed:
            return
        known = {unit.name for unit in self.plan.units}
        units = {unit.name for unit in self.plan.units if unit.span.path in self.changed}
        for folder in [path for path in self.layout.work.iterdir() if path.is_dir()]:
            for name in stamps(self.layout.commits(folder.name), ".json"):
                # What was found of all units together (ranges of keys, centroids) was found of these too.
                path = self.layout.commit(folder.name, name)
                if unit_of(name) in units or (unit_of(name) not in known and is_record(path)):
                    remove(path)

    def place(self, name: str) -> int:
        """A number for a unit, an image unit (that of its unit), or a pass over all of them."""
        unit = unit_of(name)
        return self.plan.number(unit) if unit in self.plan else zlib.crc32(name.encode())

    def image_units(self, units: Iterable[str]) -> list[str]:
        """The image units of caption units."""
        return [
            image_unit_name(unit, image_unit)
            for unit, record in self.records("captions", units)
            for image_unit in (self.plan.image_units(record) if record else ())
        ]


def _room(folder: Path) -> str:
    """Say what a disk has left: bytes, or that it takes no more files."""
    state = os.statvfs(folder)
    if state.f_files and not state.f_favail:
        return "no inodes free: it takes no more files, however small"
    return f"{state.f_bavail * state.f_frsize:,} bytes free"
