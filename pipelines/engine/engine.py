"""Does the units of a stage: under a progress line, on the runner, past units that fail and workers that die."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from open_diht.common.naming import counted
from open_diht.pipelines.engine.jobs import place_of, run_units, worker_log
from open_diht.pipelines.engine.progress import Count, StageProgress, beats
from open_diht.pipelines.engine.stage import TRIES, DoUnit, Stage, failure, set_aside
from open_diht.pipelines.runners import Backend, Direct
from open_diht.pipelines.runners.workers import WorkerDied
from open_diht.pipelines.store.commit import read_json, remove, remove_leftovers
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import each, stamps

_LISTING_SHARE = 20  # looking for what is done takes at most one part in so many of the time


@dataclass
class Engine:
    """What all stages of a run are done with."""

    layout: Layout
    workers: int
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage took."""
    backend: Backend = field(default_factory=Direct)
    """Where the units are done."""

    def clear_up(self) -> None:
        """Remove what stopped runs have left; after the units that workers are still at for them, which would miss it,
        and would lie over what this run makes of them, perhaps by another preset."""
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
    ) -> dict[str, dict[str, Any]]:
        """Do the units `todo`. Returns those that are set aside, with their record (see `set_aside`).

        Args:
            of: units of the stage, done ones included.
            total: what their counts will add up to, where that is known; else it is estimated from the units begun.
            quiet: a stage so quick that nobody needs to be told.
        """
        if not todo:
            return {}
        if len(todo) < of and not quiet:
            self.say(f"{stage.name}: {of - len(todo):,} of {counted(of, 'unit')} done already")
        for unit in stamps(self.layout.work / stage.name / "failed", ".json").keys() & set(todo):
            remove(self.layout.failed(stage.name, unit))
        count = _Counter(stage, todo, total)
        began = time.time()
        progress = contextlib.nullcontext() if quiet else StageProgress(stage.name, count.look, stage.noun)
        with progress, worker_log(self.layout.scratch / "workers.log"):
            self._run(stage, list(todo))
        self.seconds[stage.name] = round(self.seconds.get(stage.name, 0.0) + time.time() - began, 2)
        failed = stamps(self.layout.work / stage.name / "failed", ".json")
        return {unit: read_json(self.layout.failed(stage.name, unit)) for unit in todo if unit in failed}

    def _run(self, stage: Stage, todo: list[str]) -> None:
        """Run them, and again what a dying worker left undone. A unit that workers die of is set aside; workers that
        die of no unit are started again while units are done in between."""
        marks = self.layout.scratch / stage.name / "progress"
        fruitless = 0
        tries: dict[str, list[dict[str, Any]]] = {}
        while todo:
            for unit in todo:  # those of others are of shards that share the folder
                (marks / unit).unlink(missing_ok=True)
            before = stamps(self.layout.commits(stage.name), ".json")
            try:
                run_units(
                    stage.name,
                    todo,
                    DoUnit(stage),
                    self.workers,
                    backend=self.backend,
                    todo=self.layout.work,
                    hints=stage.hints,
                )
                return
            except WorkerDied as death:
                left = {mark.name for mark in marks.glob("*")} & set(todo)
                for unit in left:
                    (marks / unit).unlink(missing_ok=True)
                    tries.setdefault(unit, []).append(failure("WorkerDied", _explained(death)))
                    if len(tries[unit]) >= TRIES:
                        set_aside(stage, unit, tries[unit])
                after = stamps(self.layout.commits(stage.name), ".json")
                gone = stamps(self.layout.work / stage.name / "failed", ".json")
                undone = [unit for unit in todo if unit not in gone and after.get(unit) == before.get(unit)]
                fruitless = 0 if left or len(undone) < len(todo) else fruitless + 1
                if fruitless == TRIES:
                    raise WorkerDied(
                        f"{stage.name}: {death}, {counted(TRIES, 'time')} without a unit done (log: "
                        f"{self.layout.scratch / 'workers.log'}); free memory or use fewer WORKERS, then run the same "
                        "command to resume"
                    ) from death
                todo = undone
                self.say(f"{stage.name}: {death}; what is left goes on: {counted(len(todo), 'unit')}")


def _explained(death: WorkerDied) -> str:
    return f"{death}; signal 9 is the kernel's answer to too little memory: try fewer WORKERS, or more memory"


class _Counter:
    """What the committed units of a stage count, what those under way have done so far, and what there is to do."""

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
        """Rows of a unit, and in how many generations."""
        record = read_json(self._layout.commit(self._stage, unit)) or {}
        return int(record.get(self._counted, 0)), record.get("generations", 0)

    def look(self) -> Count:
        """Rows or images done since the beginning, and of how many."""
        now = time.monotonic()
        if now - self._looked > _LISTING_SHARE * self._took:
            found = stamps(self._layout.commits(self._stage), ".json")
            new = [unit for unit in self._todo if found.get(unit, 0) not in (0, self._before.get(unit))]
            for unit, (rows, generations) in zip(new, each(self._read, new, self._layout.root), strict=True):
                had, before = self._had.get(unit, (0, 0))
                self._finished += rows - had if generations > before else rows  # else the unit was begun anew
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
