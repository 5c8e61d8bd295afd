"""The base of all stages, and the Beam function that does their units."""

from __future__ import annotations

import contextlib
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import apache_beam as beam
import pyarrow as pa

from open_diht.common.plugins import load_plugin, loaded_plugins
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.manifests import FileChanged
from open_diht.pipelines.manifests.plan import Plan, load_plan
from open_diht.pipelines.store.commit import publish_json, read_json, retract
from open_diht.pipelines.store.fingerprints import Fingerprints
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import publish_record
from open_diht.pipelines.store.storage import StorePath, is_gone

TRIES = 3
"""A unit that fails so often in one run is set aside, and the run goes on without it."""
PAUSES_S = (1.0, 5.0)
"""Before the second and third try: what is wrong with a disk or a network may pass."""

Done = tuple[Mapping[str, Any], Sequence[StorePath]]
"""What a commit record says of a unit, and the files that it vouches for."""
Records = Callable[[str, Sequence[str]], Iterator[tuple[str, Any]]]
"""Yields units of a stage with their commit record, None where there is none."""


class Stage(ABC):
    """A small picklable object: settings in its constructor, models in `setup`, one unit in `process`.

    A stage of your own is a dataclass with a `layout`, a `name`, a `fingerprint` and a `process`. The base does the
    rest: it removes the commit record before a unit is done again, writes it after the unit's files are published, and
    reports progress. A unit that fails is tried again, and set aside.
    """

    name: str
    """Also that of its folder in work/."""
    layout: Layout
    fingerprint: str | Mapping[str, str] | Fingerprints
    """Of all that its results depend on, of every unit the same or each its own; part of the commit record."""
    part_of: ClassVar[str] = ""
    """The stage as people ask for it, where it is one pass of several; part of the commit record."""
    adds: ClassVar[bool] = False
    """Whether a unit is added to where its record is current, instead of being done anew."""
    planned: ClassVar[bool] = True
    """Whether its units are those of the plan in the output folder."""
    counted: ClassVar[str] = "rows"
    """The entry of a commit record that the progress line adds up."""
    noun: ClassVar[str] = "rows"
    """What is counted."""
    hints: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Beam's resource hints, where machines are chosen by them; --resource_hints=min_ram=8GB sets more for all."""

    def setup(self) -> None:  # noqa: B027  # not all have something to load
        """Load models; once per worker process."""

    def teardown(self) -> None:  # noqa: B027
        """End helpers."""

    @abstractmethod
    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        """Do one unit and publish its files. It may be called again for a unit that is done, and publishes the same.

        Args:
            unit: name of the unit.
            before: the commit record of a unit that is added to, see `adds`; else None.
            heartbeat: takes the number of rows done.

        Returns:
            The entries of the commit record, and the files.
        """

    def fingerprint_of(self, unit: str) -> str:
        """Return what the results of a unit depend on."""
        return self.fingerprint if isinstance(self.fingerprint, str) else self.fingerprint[unit]

    def current(self, unit: str, record: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the commit record of a unit where its files can stay: they are of the same model, settings and input.
        Else return None, and the unit is done from the beginning."""
        return record if record is not None and record["fingerprint"] == self.fingerprint_of(unit) else None

    def is_done(self, unit: str, record: dict[str, Any] | None) -> bool:
        """Return whether nothing is left to do of a unit, given its commit record."""
        return self.current(unit, record) is not None

    def prefetch(self, records: Records, units: Sequence[str]) -> None:  # noqa: B027  # few depend on other stages
        """Read the commit records of other stages that `is_done` compares, many at once."""

    def do(self, unit: str) -> None:
        """Do one unit and commit it."""
        began, path = time.time(), self.layout.commit(self.name, unit)
        heartbeat = Heartbeat(self.layout.progress(self.name, unit))
        before = self.current(unit, read_json(path))
        if before is not None and not self.adds:  # another shard has done it since the driver looked
            heartbeat.end()
            return
        if before is None:
            retract(path)
        said, files = self.process(unit, before, heartbeat)
        earlier = before or {"seconds": 0.0, "files": {}}
        record = {
            "unit": unit,
            "stage": self.part_of or self.name,
            "fingerprint": self.fingerprint_of(unit),
            **said,
            "seconds": round(earlier["seconds"] + time.time() - began, 3),
            "files": earlier.get("files", {}),
        }
        publish_record(self.layout, path, record, files, planned=self.planned)
        heartbeat.end()

    @cached_property
    def _plan(self) -> Plan:
        return load_plan(self.layout.plan)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}


class DoUnit(beam.DoFn):
    """A stage as a Beam function over unit names."""

    def __init__(self, stage: Stage):
        self._stage, self._plugins = stage, loaded_plugins()

    def setup(self) -> None:
        for name in self._plugins:
            load_plugin(name)
        pa.set_cpu_count(1)  # parallelism comes from worker processes
        self._had_plan = not is_gone(self._stage.layout.plan)
        self._stage.setup()

    def process(self, unit: str) -> None:
        if self._is_removed():
            return  # the driver finds the unit undone, and says why
        mark = self._stage.layout.progress(self._stage.name, unit)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()  # a mark that outlives its worker says what the worker died of
        tries: list[dict[str, Any]] = []
        while True:
            try:
                self._stage.do(unit)
                break
            except Exception as error:  # it must not end the other units; it is recorded, and shown
                if self._is_removed():
                    break
                tries.append(failure(type(error).__name__, str(error), traceback.format_exc()))
                if len(tries) == TRIES or isinstance(error, FileChanged):  # no further try can help
                    with contextlib.suppress(Exception):  # a full disk, a store that is down: the driver says so
                        set_aside(self._stage, unit, tries)
                    break
                time.sleep(PAUSES_S[len(tries) - 1])
        mark.unlink(missing_ok=True)

    def _is_removed(self) -> bool:
        """Return whether the output folder was removed while the worker ran."""
        return self._had_plan and is_gone(self._stage.layout.plan)

    def teardown(self) -> None:
        self._stage.teardown()


def failure(error: str, message: str, trace: str = "") -> dict[str, Any]:
    """Return the record of a failed try."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"time": now, "error": error, "message": message, "trace": trace}


def set_aside(stage: Stage, unit: str, tries: list[dict[str, Any]]) -> None:
    """Record that a unit has failed in this run. The next run tries it again."""
    publish_json(stage.layout.failed(stage.name, unit), {"unit": unit, "stage": stage.name, "tries": tries})
