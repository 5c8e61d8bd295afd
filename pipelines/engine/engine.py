"""Does the units of stages: with other shards, on the runner, past units that fail and workers that die."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_diht.common.naming import counted
from open_diht.pipelines.engine.jobs import place_of, run_units, worker_log
from open_diht.pipelines.engine.progress import Count, StageProgress, beats
from open_diht.pipelines.engine.sharing import Sharing
from open_diht.pipelines.engine.stage import TRIES, DoUnit, Stage, failure, set_aside
from open_diht.pipelines.runners import Backend, Direct
from open_diht.pipelines.runners.workers import WorkerDied
from open_diht.pipelines.store.commit import RunFailed, read_json, remove, remove_leftovers
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import unit_of
from open_diht.pipelines.store.records import Vouched, removed
from open_diht.pipelines.store.storage import each, is_local, stamps

_LISTING_SHARE = 20  # looking for what is done takes at most one part in so many of the time

Failed = dict[str, dict[str, Any]]
"""Units that failed, each with its record (see `stage.set_aside`)."""


@dataclass
class Engine:
    """Does the units of all stages of a run, and reads their commit records."""

    layout: Layout
    workers: int
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage took."""
    backend: Backend = field(default_factory=Direct)
    """Where the units are done."""
    sharing: Sharing | None = None
    """The shards that this one shares units with; None: this invocation does all units."""
    set_aside: Failed = field(default_factory=dict)
    """Units that failed in this run, by the name of their caption unit."""

    def clear_up(self) -> None:
        """Remove what stopped runs have left. First wait for workers that are still at units of a stopped run: what
        they write would be missed, and would replace what this run writes."""
        self.backend.await_units(place_of(self.layout.work), self.say)
        remove_leftovers(self.layout)

    def run(
        self,
        stage: Stage,
        todo: Sequence[str],
        *,
        of: int,
        total: int | None = None,
        quiet: bool = False,
        workers: int | None = None,
        fatal: bool = False,
    ) -> Failed:
        """Do units of a stage. When this returns, each of them is committed or has failed.

        Args:
            stage: what does them.
            todo: names of the units.
            of: number of units of the stage, including those that are committed already.
            total: sum of their counts, where known; else it is estimated from the units begun.
            quiet: show no progress line.
            workers: units at a time; None: `self.workers`.
            fatal: the run cannot go on without these units.

        Returns:
            The units that failed, with their record. They are added to `set_aside`.

        Raises:
            RunFailed: a unit failed and that is fatal, or units are neither committed nor failed because the output
                folder was removed or is full.
            WorkerDied: workers died again and again without doing a unit.
        """
        failed: Failed = {}
        parts: Iterable[list[str]] = [list(todo)] if todo else []
        for mine in self.sharing.parts(stage, todo, failed) if self.sharing else parts:
            others = len(todo) - len(mine)
            if len(todo) < of and not quiet:
                self.say(f"{stage.name}: {of - len(todo):,} of {counted(of - others, 'unit')} done already")
            for unit in self._failed(stage).keys() & set(mine):
                remove(self.layout.failed(stage.name, unit))
            count = _Counter(stage, mine, None if others else total)
            began, left, tries = time.time(), mine, _Tries()
            progress = contextlib.nullcontext() if quiet else StageProgress(stage.name, count.look, stage.noun)
            with progress, worker_log(self.layout.scratch / "workers.log"):
                while left:
                    for unit in left:  # marks of other units belong to shards that share the folder
                        self.layout.progress(stage.name, unit).unlink(missing_ok=True)
                    before = stamps(self.layout.commits(stage.name), ".json")
                    try:
                        run_units(
                            stage.name,
                            left,
                            DoUnit(stage),
                            workers or self.workers,
                            backend=self.backend,
                            todo=self.layout.work,
                            hints=stage.hints,
                        )
                        break
                    except WorkerDied as death:
                        left = self._left_by(death, stage, left, before, tries)
            self.seconds[stage.name] = round(self.seconds.get(stage.name, 0.0) + time.time() - began, 2)
            found = self._failed(stage)
            failed |= {unit: read_json(self.layout.failed(stage.name, unit)) for unit in mine if unit in found}
            self._check_done(stage, mine, failed)
        self.give_up(failed, fatal)
        return failed

    def _left_by(
        self, death: WorkerDied, stage: Stage, todo: Sequence[str], before: Mapping[str, Any], tries: _Tries
    ) -> list[str]:
        """Return the units that are left to do after a worker died. Units that workers died of too often have failed.

        Raises:
            WorkerDied: workers died too often without doing a unit.
        """
        marks = self.layout.progress(stage.name, "any").parent
        under_way = {mark.name for mark in marks.glob("*")} & set(todo)
        for unit in under_way:
            (marks / unit).unlink(missing_ok=True)
            why = f"{death}; signal 9 is the kernel's answer to too little memory: try fewer WORKERS, or more memory"
            tries.of[unit].append(failure("WorkerDied", why))
            if len(tries.of[unit]) >= TRIES:
                set_aside(stage, unit, tries.of[unit])
        after, failed = stamps(self.layout.commits(stage.name), ".json"), self._failed(stage)
        left = [unit for unit in todo if unit not in failed and after.get(unit) == before.get(unit)]
        tries.fruitless = 0 if under_way or len(left) < len(todo) else tries.fruitless + 1
        if tries.fruitless == TRIES:
            raise WorkerDied(
                f"{stage.name}: {death}, {counted(TRIES, 'time')} without a unit done (log: "
                f"{self.layout.scratch / 'workers.log'}); free memory or use fewer WORKERS, then run the same "
                "command to resume"
            ) from death
        self.say(f"{stage.name}: {death}; what is left goes on: {counted(len(left), 'unit')}")
        return left

    def _failed(self, stage: Stage) -> dict[str, Any]:
        return stamps(self.layout.work / stage.name / "failed", ".json")

    def _check_done(self, stage: Stage, units: Sequence[str], failed: Mapping[str, Any]) -> None:
        """Raise RunFailed where a unit is neither committed nor failed."""
        committed = stamps(self.layout.commits(stage.name), ".json")
        left = [unit for unit in units if unit not in committed and unit not in failed]
        if not left:
            return
        root = self.layout.root
        if not self.layout.plan.exists() and stage.planned:
            raise RunFailed(removed(self.layout))
        room = f", whose disk has {_room(root)}" if is_local(root) else ""
        raise RunFailed(
            f"{counted(len(left), 'unit')} of stage {stage.name} could be neither done nor set aside in OUTPUT "
            f"{root}{room}; the first is {left[0]}. What is committed stays: make room where there is none, and "
            "run the same command to resume"
        )

    def give_up(self, failed: Failed, fatal: bool = False) -> None:
        """Leave units, or the caption units of image units, out of all later stages.

        Raises:
            RunFailed: there are some and `fatal` is set.
        """
        if failed and fatal:
            name, record = next(iter(failed.items()))
            stage, last = record["stage"], record["tries"][-1]
            raise RunFailed(
                f"stage {stage} failed at {name} ({last['error']}: {last['message']}); all about it: "
                f"{self.layout.failed(stage, name)}. Run the same command to try again"
            )
        self.set_aside |= {unit_of(name): record for name, record in failed.items()}

    def alive(self, names: Iterable[str]) -> list[str]:
        """Return the units or image units that have not failed."""
        return [name for name in names if unit_of(name) not in self.set_aside]

    # ---- commit records

    def records(self, stage: str, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Yield units or image units with their commit record, None where there is none."""
        asked = list(names)
        found = each(lambda name: read_json(self.layout.commit(stage, name)), asked, self.layout.root)
        return zip(asked, found, strict=True)

    def total(self, stage: str, names: Iterable[str], of: str = "rows") -> int:
        """Return the sum of a count over the commit records of units or image units."""
        return sum(int(record[of]) for _, record in self.records(stage, names))

    def done(self, stage: str, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Yield units with their commit record, as `records` does. A record that is corrupt, or whose files are gone
        or truncated, is removed, so that its unit is done again."""
        vouched, withdrawn = Vouched(self.layout), 0
        asked = list(names)
        found = each(lambda name: vouched.read(self.layout.commit(stage, name)), asked, self.layout.root)
        for name, record in zip(asked, found, strict=True):
            holds = record is None or vouched.holds(record)
            withdrawn += not holds and vouched.withdraw(self.layout.commit(stage, name), record)
            yield name, record if holds else None
        if withdrawn:
            self.say(f"{stage}: the files of {counted(withdrawn, 'unit')} are gone or damaged, and are made again")

    def missing(self, stage: Stage, names: Sequence[str]) -> dict[str, dict[str, Any] | None]:
        """Return the units of a stage that are not done, with their commit record."""
        stage.prefetch(self.records, names)
        return {name: record for name, record in self.done(stage.name, names) if not stage.is_done(name, record)}

    def complete(self, stage: Stage, names: Sequence[str], **how: Any) -> Failed:
        """Do the units of a stage that are not done. `how`: see `run`."""
        return self.run(stage, list(self.missing(stage, names)), of=len(names), **how)


@dataclass
class _Tries:
    """What died while the units of a stage were done."""

    of: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    """The failed tries of each unit."""
    fruitless: int = 0
    """Deaths in a row without a unit under way or done."""


def _room(folder: Path) -> str:
    """Return what a disk has left: bytes, or that it takes no more files."""
    state = os.statvfs(folder)
    if state.f_files and not state.f_favail:
        return "no inodes free: it takes no more files, however small"
    return f"{state.f_bavail * state.f_frsize:,} bytes free"


class _Counter:
    """Adds up what the committed units of a stage count, and what the running ones have done so far."""

    def __init__(self, stage: Stage, todo: Sequence[str], total: int | None):
        self._layout, self._stage, self._counted, self._total = stage.layout, stage.name, stage.counted, total
        self._before = stamps(self._layout.commits(stage.name), ".json")
        # A unit that is added to may have been begun by an earlier run: only what came is counted.
        known = [unit for unit in todo if stage.adds and unit in self._before]
        self._had = {unit: self._read(unit) for unit in known}
        self._todo, self._ended = set(todo), 0
        self._finished = 0
        self._looked = self._took = 0.0

    def _read(self, unit: str) -> tuple[int, int]:
        """Return the count of a unit, and its number of segments."""
        record = read_json(self._layout.commit(self._stage, unit)) or {}
        return int(record.get(self._counted, 0)), record.get("segments", 0)

    def look(self) -> Count:
        """Return how many rows or images are done since the beginning, and of how many."""
        now = time.monotonic()
        if now - self._looked > _LISTING_SHARE * self._took:
            found = stamps(self._layout.commits(self._stage), ".json")
            new = [unit for unit in self._todo if found.get(unit, 0) not in (0, self._before.get(unit))]
            for unit, (rows, segments) in zip(new, each(self._read, new, self._layout.root), strict=True):
                had, before = self._had.get(unit, (0, 0))
                self._finished += rows - had if segments > before else rows  # else the unit was done again
            self._todo.difference_update(new)
            self._ended += len(new)
            self._looked, self._took = time.monotonic(), time.monotonic() - now
        running = beats(self._layout.scratch / self._stage / "progress", self._todo)
        done = self._finished + sum(rows for rows, _ in running)
        if self._total is not None:
            return Count(done, self._total)
        begun = self._finished + sum(of for _, of in running)
        waiting = max(0, len(self._todo) - len(running))
        if not self._ended + len(running):
            return Count(done)
        return Count(done, begun + round(waiting * begun / (self._ended + len(running))), exact=not waiting)
