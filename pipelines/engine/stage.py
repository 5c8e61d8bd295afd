"""The base class of all stages, and the Beam function that runs their units."""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import ClassVar, NotRequired, TypedDict, cast

import apache_beam as beam
import pyarrow as pa
from apache_beam.metrics.metric import Metrics

from open_diht.common.cpu_time import cpu_seconds
from open_diht.common.lease import LeaseLost, check_fence, fence_of, set_fence, token_of
from open_diht.common.plugins import load_plugin, loaded_plugins
from open_diht.common.stores import in_words
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.manifests import FileChanged
from open_diht.pipelines.manifests.plan import Plan, load_plan
from open_diht.pipelines.runners.job import to_log
from open_diht.pipelines.store.commit import (
    best_effort,
    publish_json,
    read_json,
    remedy_of,
    retract,
)
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, Fingerprints, publish_record
from open_diht.pipelines.store.storage import StorePath, is_gone, is_local

TRIES = 3
"""A unit is quarantined after this many failed tries in a row, or deaths of workers that ran it. If
its input file has changed, one failed try is enough."""
PAUSES_S = (1.0, 5.0)
"""Seconds before the second and third try, since errors of a disk or a network may pass."""
UNRECORDED = "open-diht cannot record that a unit failed: "
"""Words that a worker prints before the reason. If OUTPUT takes no record, only the log can tell
the driver."""

METRICS = "diht"
"""Namespace of the metrics that a runner's page shows."""

Done = tuple[Mapping[str, object], Sequence[StorePath]]
"""Entries for the commit record of a unit, and the files that the record vouches for."""
Records = Callable[[str, Sequence[str]], Iterator[tuple[str, CommitRecord | None]]]
"""Function from a stage's name and unit names to (unit, commit record), with None for a missing
record."""


class Failure(TypedDict):
    """A failed try of a unit."""

    time: str  # as in 2026-01-31T12:00:00Z
    error: str  # name of the exception
    message: str
    trace: str


class FailedUnit(TypedDict):
    unit: str
    stage: str
    tries: list[Failure]
    token: NotRequired[str]  # as in `CommitRecord`; records in `failed/` have it


GPU_HINTS: Mapping[str, str] = {
    # The cheapest GPU that Dataflow offers in most regions. --resource_hints may name another one.
    "accelerator": "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    # A machine has a process for each vCPU, and its GPU has no room for as many models.
    "max_active_bundles_per_worker": "1",
}


def hints_of(device: str) -> Mapping[str, str]:
    """Return the resource hints of a stage that computes on a torch device."""
    return GPU_HINTS if device.startswith("cuda") else {}


class Stage(ABC):
    """A small picklable object: settings in its constructor, models in `setup`, one unit in
    `process`.

    Its subclasses have a `layout`, a `name`, a `fingerprint` and a `process`. This class does the
    rest: it deletes the commit record before a unit is redone, and writes it after the unit's files
    are published. `DoUnit` retries a unit that fails, unless its input file has changed, and then
    quarantines it.
    """

    name: str
    """Name of the stage and of its folder in work/."""
    layout: Layout
    fingerprint: str | Mapping[str, str] | Fingerprints
    """Hash of all that the results depend on (see `current`), for all units or one for each. It is
    stored in the commit record."""
    part_of: ClassVar[str] = ""
    """Name of the stage in STAGES if this is one of its passes, otherwise empty. Stored in the
    commit record."""
    adds: ClassVar[bool] = False
    """True: a unit with a current commit record may be incomplete and is then extended. False: such
    a unit is done."""
    planned: ClassVar[bool] = True
    """True if the output folder of the stage must hold a plan."""
    counted: ClassVar[str] = "rows"
    """Key of the commit record that the progress line sums."""
    noun: ClassVar[str] = "rows"
    """The things that this sum counts, for the progress line."""

    @property
    def hints(self) -> Mapping[str, str]:
        """Beam resource hints, for backends that choose machines by them. A hint in
        --resource_hints applies to all stages instead."""
        return {}

    def setup(self) -> None:  # noqa: B027  # not all stages load something
        """Load models; called in each worker process before its first unit."""

    def teardown(self) -> None:  # noqa: B027
        """End helper processes."""

    def helpers(self) -> Sequence[int]:
        """Return the processes that work for this stage.

        Returns:
            Ids of the running processes, whose CPU time counts as the unit's.
        """
        return ()

    @abstractmethod
    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        """Process one unit and publish its files. A repeated call must publish the same files.

        Args:
            unit: name of the unit.
            before: the commit record of a unit that is extended, see `adds`, or None for a new one.
            heartbeat: receives the numbers of rows expected and done.

        Returns:
            The entries for the commit record, and the files.
        """

    def fingerprint_of(self, unit: str) -> str:
        """Return the hash of all that the results of a unit depend on.

        Args:
            unit: name of the unit.

        Returns:
            `fingerprint`, or the unit's own if each has one.
        """
        return self.fingerprint if isinstance(self.fingerprint, str) else self.fingerprint[unit]

    def current(self, unit: str, record: CommitRecord | None) -> CommitRecord | None:
        """Return the commit record if the unit's files are current. By default they are if the
        record has the unit's fingerprint.

        Args:
            unit: name of the unit.
            record: its commit record, if it has one.

        Returns:
            The record, or None if the unit must be done from the beginning.
        """
        return (
            record
            if record is not None and record["fingerprint"] == self.fingerprint_of(unit)
            else None
        )

    def is_done(self, unit: str, record: CommitRecord | None) -> bool:
        """Return whether a unit is complete.

        Args:
            unit: name of the unit.
            record: its commit record, if it has one.

        Returns:
            False if `process` must be called for the unit.
        """
        return self.current(unit, record) is not None

    # Not abstract, because few stages depend on others.
    def prefetch(self, records: Records, units: Sequence[str]) -> None:  # noqa: B027
        """Read the commit records of other stages that `is_done` compares, many at once.

        Args:
            records: reads commit records.
            units: the units that `is_done` will be called for.
        """

    def do(self, unit: str) -> Counter[str]:
        """Process and commit one unit, unless it has a current commit record and the stage extends
        none, see `adds`.

        Args:
            unit: name of the unit.

        Returns:
            Numbers for a runner's page: rows (`noun`), rejected, dead_letters, bytes and
            milliseconds, without those of an earlier run that was extended.
        """
        began = time.time()
        used = cpu_seconds(self.helpers())
        path = self.layout.commit(self.name, unit)
        heartbeat = Heartbeat(self.layout.progress(self.name, unit))
        before = self.current(unit, read_json(path))
        if before is not None and not self.adds:
            # Done since the driver looked, as by another shard.
            heartbeat.end()
            return Counter()
        if before is None:
            retract(path)  # it must not vouch for files that are about to be replaced
        said, files = self.process(unit, before, heartbeat)
        earlier: CommitRecord = before or {"seconds": 0.0, "files": {}}
        used = cpu_seconds(self.helpers()) - used
        record = {
            "unit": unit,
            "stage": self.part_of or self.name,
            "fingerprint": self.fingerprint_of(unit),
            "token": token_of(self.layout.root),
            **said,
            "seconds": round(earlier["seconds"] + time.time() - began, 3),
            "cpu_seconds": round(earlier.get("cpu_seconds", earlier["seconds"]) + used, 3),
            "files": earlier.get("files", {}),
        }
        published = publish_record(self.layout, path, record, files, planned=self.planned)
        heartbeat.end()
        counts = self._counts(published)
        counts.subtract(self._counts(earlier))
        return counts

    def _counts(self, record: CommitRecord) -> Counter[str]:
        """Return the numbers in a commit record that a runner's page shows."""
        counts = Counter({self.noun: cast(Mapping[str, int], record).get(self.counted, 0)})
        counts["rejected"] = sum(record.get("rejected", {}).values())
        dead = record.get("dead", 0)  # stage `decide` counts them by error
        counts["dead_letters"] = sum(dead.values()) if isinstance(dead, Mapping) else dead
        counts["bytes"] = sum(record.get("files", {}).values())
        counts["milliseconds"] = round(1000 * record["seconds"])
        return counts

    @cached_property
    def _plan(self) -> Plan:
        return load_plan(self.layout.plan)

    def __getstate__(self) -> dict[str, object]:
        # Attributes with an underscore are models and caches of this process.
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}


class DoUnit(beam.DoFn):
    """A stage as a Beam function over unit names.

    It counts units, rows and what became of them in Beam's metrics, so that the page of a cluster
    shows how far a job is. The numbers of a run come from the commit records instead, because a
    runner may count a repeated unit twice.
    """

    def __init__(self, stage: Stage):
        self._stage, self._plugins = stage, loaded_plugins()  # workers load the driver's plugins
        self._fence = fence_of(stage.layout.root)

    def setup(self) -> None:
        for name in self._plugins:
            load_plugin(name)
        root = self._stage.layout.root
        if self._fence is not None and self._fence != fence_of(root):
            # Otherwise this is the driver's process.
            set_fence(root, self._fence)
        pa.set_cpu_count(1)  # parallelism comes from worker processes
        self._had_plan = not is_gone(self._stage.layout.plan)
        self._is_stuck = False
        self._stage.setup()

    def process(self, unit: str) -> None:
        if self._is_stuck or self._plan_is_gone():
            return  # the driver finds the unit undone and reports why
        mark = self._stage.layout.marks(self._stage.name) / unit
        tries: list[Failure] = []
        while True:
            try:
                check_fence(self._stage.layout.work)
                with best_effort():
                    if is_local(mark):
                        mark.parent.mkdir(parents=True, exist_ok=True)
                    # If the worker dies, the mark that is left tells which unit it was running.
                    mark.write_bytes(b"")
                counts = self._stage.do(unit)
                Metrics.counter(METRICS, "units").inc()
                for name, count in counts.items():
                    Metrics.counter(METRICS, name).inc(count)
                break
            except LeaseLost:
                # The driver notices as well, and a mark may be of the run that has the lease.
                return
            except Exception as error:  # recorded and reported; it must not end the other units
                if self._is_lost():
                    return
                tries.append(failure(type(error).__name__, str(error), traceback.format_exc()))
                if len(tries) == TRIES or isinstance(error, FileChanged):
                    # A changed file stays changed.
                    Metrics.counter(METRICS, "failed_units").inc()
                    try:
                        quarantine(self._stage, unit, tries)
                    except LeaseLost:
                        return
                    except Exception as why:
                        # A full disk or a store that is down, which the driver reports.
                        self._is_stuck = True  # the next units would only take time
                        with best_effort():  # the log may be on the same disk
                            to_log(f"{UNRECORDED}{explained(why, self._stage.layout.root)}")
                    break
                time.sleep(PAUSES_S[len(tries) - 1])
        with best_effort():
            check_fence(mark)  # otherwise it may belong to the run that has taken the folder
            self._stage.layout.progress(self._stage.name, unit).unlink(missing_ok=True)
            mark.unlink(missing_ok=True)

    def _plan_is_gone(self) -> bool:
        """Return whether the output folder lost its plan while the worker ran."""
        return self._had_plan and is_gone(self._stage.layout.plan)

    def _is_lost(self) -> bool:
        """Return whether the output folder was removed, or taken by another run, while the worker
        ran."""
        if self._plan_is_gone():
            return True
        try:
            check_fence(self._stage.layout.work)
        except LeaseLost:
            return True
        # Stores have errors of their own. The unit meets the same error, and has several tries.
        except Exception:
            return False
        return False

    def teardown(self) -> None:
        self._stage.teardown()


def explained(error: Exception, root: StorePath) -> str:
    """Return an error in an output folder as one line, with its remedy if one is known."""
    remedy = remedy_of(error, root)
    return f"{in_words(error)}{'. ' if remedy else ''}{remedy}"


def failure(error: str, message: str, trace: str = "") -> Failure:
    """Return the record of a failed try: name, text and traceback of the exception."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"time": now, "error": error, "message": message, "trace": trace}


def quarantine(stage: Stage, unit: str, tries: list[Failure]) -> None:
    """Quarantine a unit: record that it failed in this run, with its tries. The next run tries it
    again."""
    record = FailedUnit(unit=unit, stage=stage.name, tries=tries, token=token_of(stage.layout.root))
    publish_json(stage.layout.failed(stage.name, unit), record)
