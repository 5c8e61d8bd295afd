"""Does the units of a stage: under a progress line, on the runner, past units that fail and workers that die."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.commit import read_json, remove
from pipelines.layout import Layout
from pipelines.progress import Progress, beats
from pipelines.runner import run_units, worker_log
from pipelines.runners import Backend, Direct
from pipelines.stages import TRIES, DoUnit, Stage, TransformStage, failure, set_aside
from pipelines.storage import each, stamps
from pipelines.workers import WorkerDied

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

    def run(
        self, stage: Stage, todo: Sequence[str], *, of: int, counted: str, total: int, noun: str, quiet: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Do the units `todo`. Returns those that are set aside, with their record (see `stages.set_aside`).

        Args:
            of: units of the stage, done ones included.
            counted: the entry of a commit record that the progress line adds up.
            total: what it will add up to, for the ETA; at least a guess.
            noun: what is counted.
            quiet: a stage so quick that nobody needs to be told.
        """
        if not todo:
            return {}
        if len(todo) < of and not quiet:
            self.say(f"{stage.name}: {of - len(todo)} of {of} units are done already")
        for unit in stamps(self.layout.work / stage.name / "failed", ".json").keys() & set(todo):
            remove(self.layout.failed(stage.name, unit))
        count = _Count(self.layout, stage.name, todo, counted)
        began = time.time()
        progress = contextlib.nullcontext() if quiet else Progress(stage.name, total, count.done, noun)
        with progress, worker_log(self.layout.scratch / "workers.log"):
            self._run(stage, list(todo))
        self.seconds[stage.name] = round(self.seconds.get(stage.name, 0.0) + time.time() - began, 2)
        failed = stamps(self.layout.work / stage.name / "failed", ".json")
        return {unit: read_json(self.layout.failed(stage.name, unit)) for unit in todo if unit in failed}

    def _run(self, stage: Stage, todo: list[str]) -> None:
        """Run them, and again what a dying worker left undone; a unit that workers die of is set aside."""
        marks = self.layout.scratch / stage.name / "progress"
        tries: dict[str, list[dict[str, Any]]] = {}
        while todo:
            for stale in marks.glob("*"):
                stale.unlink(missing_ok=True)
            before = stamps(self.layout.commits(stage.name), ".json")
            try:
                run_units(
                    stage.name,
                    todo,
                    stage.transform() if isinstance(stage, TransformStage) else DoUnit(stage),
                    self.workers,
                    apart=bool(tries),
                    backend=self.backend,
                    todo=self.layout.work,
                )
                return
            except WorkerDied as death:
                left = {mark.name for mark in marks.glob("*")}
                if not left:
                    raise  # it died of no unit: nothing says that another would live longer
                for unit in left:
                    tries.setdefault(unit, []).append(failure("WorkerDied", _explained(death)))
                    if len(tries[unit]) >= TRIES:
                        set_aside(stage, unit, tries[unit])
                after = stamps(self.layout.commits(stage.name), ".json")
                gone = stamps(self.layout.work / stage.name / "failed", ".json")
                todo = [unit for unit in todo if unit not in gone and after.get(unit) == before.get(unit)]
                self.say(f"{stage.name}: {death}; {len(todo)} units are left and go on")


def _explained(death: WorkerDied) -> str:
    return f"{death}; return code 137 or -9 is the kernel's answer to too little memory: try fewer WORKERS"


class _Count:
    """What the committed units of a stage count, and what those under way have done so far."""

    def __init__(self, layout: Layout, stage: str, todo: Sequence[str], counted: str):
        self._layout, self._stage, self._counted = layout, stage, counted
        self._before = stamps(layout.commits(stage), ".json")
        # A unit of pictures may have been begun by an earlier run: only what came is counted.
        known = [unit for unit in todo if stage in ("download", "spotting") and unit in self._before]
        self._had = {unit: self._read(unit) for unit in known}
        self._todo = set(todo)
        self._finished = self._looked = self._took = 0.0

    def _read(self, unit: str) -> int:
        record = read_json(self._layout.commit(self._stage, unit))
        return int(record[self._counted]) if record else 0

    def done(self) -> int:
        """Rows or pictures done since the beginning."""
        now = time.monotonic()
        if now - self._looked > _LISTING_SHARE * self._took:
            found = stamps(self._layout.commits(self._stage), ".json")
            new = [unit for unit in self._todo if found.get(unit, 0) not in (0, self._before.get(unit))]
            self._finished += sum(each(self._read, new, self._layout.root))
            self._finished -= sum(self._had.get(unit, 0) for unit in new)
            self._todo.difference_update(new)
            self._looked, self._took = time.monotonic(), time.monotonic() - now
        return int(self._finished) + beats(self._layout.scratch / self._stage / "progress")
