"""Run the units of stages on a backend, shared with other shards, despite failing units and dying
workers."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from open_diht.common.lease import LeaseLost, check_fence, token_of
from open_diht.common.naming import counted
from open_diht.pipelines.engine.jobs import WorkerLog, run_name, run_units, worker_log
from open_diht.pipelines.engine.progress import Count, StageProgress, beats
from open_diht.pipelines.engine.sharing import Sharing
from open_diht.pipelines.engine.stage import (
    TRIES,
    UNRECORDED,
    DoUnit,
    FailedUnit,
    Failure,
    Stage,
    explained,
    failure,
    quarantine,
)
from open_diht.pipelines.runners import Backend, Direct
from open_diht.pipelines.runners.job import JobAborted, WorkerDied
from open_diht.pipelines.store.commit import (
    RunFailed,
    publish_json,
    read_json,
    remove,
    remove_leftovers,
)
from open_diht.pipelines.store.layout import Layout, unit_of
from open_diht.pipelines.store.records import CommitRecord, Vouched, gone, removed
from open_diht.pipelines.store.storage import FileStamp, each, is_local, stamps

_LISTING_SHARE = 20  # listing commit records takes at most one part in 20 of the time
_FEW_INODES = 10  # the temporary files of a stage are removed when it has failed for lack of room

Failed = dict[str, FailedUnit]
"""Record of each failed unit by its name."""


@dataclass
class Engine:
    """Runs the units of all stages of a run and reads their commit records."""

    layout: Layout
    workers: int
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of work by stage; a stage with nothing to do has no entry."""
    backend: Backend = field(default_factory=Direct)
    """The backend that runs the units."""
    sharing: Sharing | None = None
    """Divides the units among shards. Without it, this invocation runs all units."""
    quarantined: Failed = field(default_factory=dict)
    """Records of the units that failed in this run, by name. A failed image unit is under its
    caption unit's name."""

    def clear_up(self) -> None:
        """Delete the leftovers of stopped runs, see `remove_leftovers`. On a cluster first wait
        until no worker still runs units of such a run, because it would overwrite files of this
        run, see `Backend.await_units`.
        """
        self.backend.await_units(run_name(self.layout.work), self.say)
        check_fence(self.layout.work)
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
        """Run units of a stage. Return the records of the units that failed, and add them to
        `quarantined`; all other units are then committed. RunFailed, WorkerDied and LeaseLost end
        the run; other errors are those of `Backend.run`.

        Args:
            of: number of all units, including those already done, for a message.
            total: number of rows (or other counts) in `todo`. Without it, or if other shards run a
                part, the number is estimated from the units begun.
            workers: see `Job.workers`; by default `self.workers`.
            fatal: raise RunFailed if a unit fails.
        """
        # Before it removes the marks of units, which may be another run's.
        check_fence(self.layout.work)
        failed: Failed = {}
        parts: Iterable[list[str]] = [list(todo)] if todo else []
        for mine in self.sharing.parts(stage, todo, failed) if self.sharing else parts:
            others = len(todo) - len(mine)
            if len(todo) < of and not quiet:
                self.say(
                    f"{stage.name}: {of - len(todo):,} of {counted(of - others, 'unit')} already"
                    " done"
                )
            for unit in self._failed(stage).keys() & set(mine):  # they get new tries
                remove(self.layout.failed(stage.name, unit))
            count = _Counter(stage, mine, None if others else total)
            began = time.time()
            left = mine
            tries = _Tries(stage, mine)
            begun = before = stamps(self.layout.commits(stage.name), ".json")
            progress = (
                contextlib.nullcontext()
                if quiet
                else StageProgress(stage.name, count.look, stage.noun)
            )
            with progress, worker_log(self.layout.scratch / "workers.log") as log:
                while left:
                    now, rest = tries.divided(left)
                    self._take_marks(stage, now)
                    try:
                        run_units(
                            stage.name,
                            now,
                            DoUnit(stage),
                            workers or self.workers,
                            backend=self.backend,
                            todo=self.layout.work,
                            hints=stage.hints,
                        )
                        left = rest
                    except (WorkerDied, JobAborted) as death:
                        left = rest + self._left_by(death, stage, now, before, tries)
                        before = stamps(self.layout.commits(stage.name), ".json")
                count.forget()
            self.seconds[stage.name] = round(
                self.seconds.get(stage.name, 0.0) + time.time() - began, 2
            )
            found = self._failed(stage)
            failed |= {
                unit: read_json(self.layout.failed(stage.name, unit))
                for unit in mine
                if unit in found
            }
            self._check_done(stage, mine, failed, begun, log)
            tries.forget()
        self.give_up(failed, fatal)
        return failed

    def _take_marks(self, stage: Stage, units: Collection[str]) -> set[str]:
        """Delete the marks of units that were running when their worker ended, and return these
        units. Marks of other units are left, because they may belong to other shards."""
        marks = self.layout.marks(stage.name)
        found = stamps(marks, "").keys() & set(units)
        for unit in found:
            remove(marks / unit)
            self.layout.progress(stage.name, unit).unlink(missing_ok=True)
        return found

    def _left_by(
        self,
        death: WorkerDied | JobAborted,
        stage: Stage,
        todo: Sequence[str],
        before: Mapping[str, FileStamp],
        tries: _Tries,
    ) -> list[str]:
        """Return the units of a job that are left to run after a worker died. A unit has failed if
        it was running at `TRIES` deaths. Raise WorkerDied after `TRIES` deaths in a row in which no
        unit was running or done, and the error of an aborted job at once, which then has another
        cause."""
        failed = self._failed(stage)
        left = self._uncommitted(stage, [unit for unit in todo if unit not in failed], before)
        under_way = self._take_marks(stage, left)
        if not under_way and isinstance(death, JobAborted):
            raise death
        said = str(death).removeprefix(f"{stage.name}: ")
        for unit in under_way:
            why = (
                f"{said}; signal 9 usually means that memory ran out: use fewer WORKERS, or more"
                " memory"
            )
            if tries.add(unit, failure("WorkerDied", why)):
                left.remove(unit)
        tries.fruitless = 0 if under_way or len(left) < len(todo) else tries.fruitless + 1
        if tries.fruitless == TRIES:
            raise WorkerDied(
                f"{stage.name}: {death}, {counted(TRIES, 'time')} without a unit done (log:"
                f" {self.layout.scratch / 'workers.log'}); free memory or use fewer WORKERS, then"
                " run the same command to resume"
            ) from death
        self.say(f"{stage.name}: {said}; continuing with {counted(len(left), 'unit')}")
        return left

    def _failed(self, stage: Stage) -> dict[str, FileStamp]:
        return stamps(self.layout.work / stage.name / "failed", ".json")

    def _uncommitted(
        self, stage: Stage, units: Sequence[str], before: Mapping[str, FileStamp]
    ) -> list[str]:
        """Return the units without a commit record of this run (or one of its shards) that is newer
        than `before`."""
        now = stamps(self.layout.commits(stage.name), ".json")
        ours = {unit for unit in units if now.get(unit) not in (None, before.get(unit))}
        if not is_local(self.layout.root):
            # A worker of a run that lost its lease may write records at any time. On a disk each
            # publication checks the fence just before its rename, so the stamps suffice, and a
            # stage of 100,000 units reads no record again.
            token = token_of(self.layout.root)
            records = self.records(stage.name, ours)
            ours = {unit for unit, record in records if record and record.get("token") == token}
        return [unit for unit in units if unit not in ours]

    def _check_done(
        self,
        stage: Stage,
        units: Sequence[str],
        failed: Failed,
        begun: Mapping[str, FileStamp],
        log: WorkerLog,
    ) -> None:
        """Raise RunFailed if a unit is neither committed nor failed. `begun` has the stamps of
        earlier records."""
        check_fence(self.layout.work)
        same = self._uncommitted(stage, [unit for unit in units if unit not in failed], begun)
        # The old record of a unit to be extended is still there; or another shard had already done
        # the unit.
        left = [
            unit
            for unit, record in self.records(stage.name, same)
            if not stage.is_done(unit, record)
        ]
        if not left:
            return
        root = self.layout.root
        if not self.layout.plan.exists() and stage.planned:
            raise RunFailed(removed(self.layout))
        _, found, said = log.last.decode("utf-8", "replace").rpartition(UNRECORDED)
        why = said.partition("\n")[0] if found else self._cannot_record(stage, left[0])
        room = f", whose disk has {_room(root)}" if is_local(root) else ""
        raise RunFailed(
            f"{counted(len(left), 'unit')} of stage {stage.name} could be neither completed nor"
            f" recorded as failed in OUTPUT {root}{room}; the first is {left[0]} ({why}). Committed"
            " work is kept; run the same command to resume"
        )

    def _cannot_record(self, stage: Stage, unit: str) -> str:
        """Return why no record of a failed unit can be written, as far as this process can tell.
        Workers on other machines have logs of their own."""
        try:
            quarantine(
                stage,
                unit,
                [failure("RunFailed", "its worker could neither complete it nor record why")],
            )
            remove(self.layout.failed(stage.name, unit))  # it has not failed: the next run does it
        except LeaseLost:
            raise
        except Exception as error:  # errors of a store's clients have no common base class
            return explained(error, self.layout.root)
        return "the log of its worker says why"

    def give_up(self, failed: Failed, fatal: bool = False) -> None:
        """Leave failed units (and caption units of failed image units) out of later stages, or
        raise RunFailed if `fatal`."""
        if failed and fatal:
            name, record = next(iter(failed.items()))
            stage = record["stage"]
            last = record["tries"][-1]
            raise RunFailed(
                f"stage {stage} failed at {name} ({last['error']}: {last['message']}); details: "
                f"{self.layout.failed(stage, name)}. Run the same command to try again"
            )
        self.quarantined |= {unit_of(name): record for name, record in failed.items()}

    def alive(self, names: Iterable[str]) -> list[str]:
        """Return the names whose caption unit has not failed."""
        return [name for name in names if unit_of(name) not in self.quarantined]

    # ---- commit records

    def records(
        self, stage: str, names: Iterable[str]
    ) -> Iterator[tuple[str, CommitRecord | None]]:
        """Return an iterator over (name, commit record), with None for a missing record."""
        asked = list(names)
        found = each(
            lambda name: read_json(self.layout.commit(stage, name)), asked, self.layout.root
        )
        return zip(asked, found, strict=True)

    def committed(self, stage: str, names: Iterable[str]) -> Iterator[tuple[str, CommitRecord]]:
        """Yield (name, commit record). Raise RunFailed if a record is missing."""
        for name, record in self.records(stage, names):
            if record is None:
                raise gone(self.layout, stage, name)
            yield name, record

    def total(self, stage: str, names: Iterable[str], of: str = "rows") -> int:
        """Return the sum of a count over commit records. Raise RunFailed if one is missing."""
        records = cast(Iterator[tuple[str, dict[str, int]]], self.committed(stage, names))
        return sum(record[of] for _, record in records)

    def done(self, stage: str, names: Iterable[str]) -> Iterator[tuple[str, CommitRecord | None]]:
        """Yield (name, commit record) like `records`, but check each record first. If a record is
        corrupt, or its files are missing or of another size, delete it, so that its unit is not
        done, and yield None in its place.
        """
        vouched = Vouched(self.layout)
        withdrawn = 0
        asked = list(names)
        found = each(
            lambda name: vouched.read(self.layout.commit(stage, name)), asked, self.layout.root
        )
        for name, record in zip(asked, found, strict=True):
            if record is not None and not vouched.holds(record):
                withdrawn += vouched.retract(self.layout.commit(stage, name), record)
                record = None
            yield name, record
        if withdrawn:
            self.say(
                f"{stage}: the files of {counted(withdrawn, 'unit')} are missing or damaged; a run"
                " of this stage writes them again"
            )

    def missing(self, stage: Stage, names: Sequence[str]) -> dict[str, CommitRecord | None]:
        """Return the units that are not done, each with its commit record or None."""
        stage.prefetch(self.records, names)
        return {
            name: record
            for name, record in self.done(stage.name, names)
            if not stage.is_done(name, record)
        }

    def complete(self, stage: Stage, names: Sequence[str], **how: Any) -> Failed:
        """Run the units of a stage that are not done, by `run`, and return the records of those
        that failed."""
        return self.run(stage, list(self.missing(stage, names)), of=len(names), **how)


class _Tries:
    """The deaths of workers during one stage, with those of earlier runs that ended before the unit
    did. Deaths are recorded, because on a cluster a run may end with the worker."""

    def __init__(self, stage: Stage, units: Sequence[str]):
        self._stage = stage
        self._layout = stage.layout
        folder = self._layout.work / stage.name / "deaths"
        known = stamps(folder, ".json").keys() & set(units)
        self._of: dict[str, list[Failure]] = {
            unit: read_json(self._layout.deaths(stage.name, unit)) or [] for unit in known
        }
        self.fruitless = 0
        """Consecutive deaths without a unit running or done."""

    def divided(self, left: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the units for the next job, and the others. A last try is made alone, so that no
        unit fails for the deaths that another one causes in the same process or job."""
        last = [unit for unit in left if len(self._of.get(unit, ())) >= TRIES - 1]
        known = set(last)
        others = [unit for unit in left if unit not in known]
        return (others, last) if others else (last[:1], last[1:])

    def add(self, unit: str, death: Failure) -> bool:
        """Record a death at which a unit was running. If that was its last try, quarantine it and
        return True."""
        tries = self._of.setdefault(unit, [])
        tries.append(death)
        if len(tries) < TRIES:
            publish_json(self._layout.deaths(self._stage.name, unit), tries)
            return False
        quarantine(self._stage, unit, tries)
        return True

    def forget(self) -> None:
        """Delete the records: the units are done, or have failed."""
        for unit in self._of:
            remove(self._layout.deaths(self._stage.name, unit))


def _room(folder: Path) -> str:
    """Return the free space of a disk in words, or that it has few free inodes."""
    state = os.statvfs(folder)
    if state.f_files and state.f_favail < _FEW_INODES:
        return f"{counted(state.f_favail, 'free inode')}, so it takes no more files than that"
    return f"{state.f_bavail * state.f_frsize:,} bytes free"


class _Counter:
    """Counts the rows of the committed units of a stage and the progress of its running units."""

    def __init__(self, stage: Stage, todo: Sequence[str], total: int | None):
        self._layout = stage.layout
        self._stage = stage.name
        self._counted = stage.counted
        self._total = total
        self._before = stamps(self._layout.commits(stage.name), ".json")
        # Units that are extended may hold rows of an earlier run; count only the new rows.
        known = [unit for unit in todo if stage.adds and unit in self._before]
        self._had = {unit: self._read(unit) for unit in known}
        self._todo = set(todo)
        self._ended = 0
        self._finished = 0
        self._looked = self._took = 0.0

    def _read(self, unit: str) -> tuple[int, int]:
        """Return the count in a unit's commit record, and its number of segments."""
        record = read_json(self._layout.commit(self._stage, unit)) or {}
        return int(record.get(self._counted, 0)), record.get("segments", 0)

    def forget(self) -> None:
        """List the commit records at the next `look`, even if they were listed just before."""
        self._took = 0.0

    def look(self) -> Count:
        """Return how much this run has done, and the total: exact, estimated or unknown."""
        now = time.monotonic()
        if now - self._looked > _LISTING_SHARE * self._took:
            # Slow listings are repeated less often.
            found = stamps(self._layout.commits(self._stage), ".json")
            new = [
                unit for unit in self._todo if found.get(unit, 0) not in (0, self._before.get(unit))
            ]
            for unit, (rows, segments) in zip(
                new, each(self._read, new, self._layout.root), strict=True
            ):
                had, before = self._had.get(unit, (0, 0))
                # Else the unit was redone.
                self._finished += rows - had if segments > before else rows
            self._todo.difference_update(new)
            self._ended += len(new)
            self._looked = time.monotonic()
            self._took = time.monotonic() - now
        running = beats(self._layout.scratch / self._stage / "progress", self._todo)
        done = self._finished + sum(rows for rows, _ in running)
        if self._total is not None:
            return Count(done, self._total)
        begun = self._finished + sum(of for _, of in running)
        # Estimate the rows of waiting units by the mean of the units begun.
        waiting = max(0, len(self._todo) - len(running))
        if not self._ended + len(running):
            return Count(done)
        return Count(
            done, begun + round(waiting * begun / (self._ended + len(running))), exact=not waiting
        )
