"""The stages: each turns one unit into published files and a commit record.

A stage is a small picklable object: settings in its constructor, models in `setup`, one unit in `process`. `DoUnit` is
all that Beam sees.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from typing import Any, Protocol, runtime_checkable

import apache_beam as beam
import pyarrow as pa

from pipelines.commit import publish_json
from pipelines.layout import Layout
from pipelines.manifests import FileChanged

TRIES = 3
"""A unit that fails so often in one run is set aside, so that the others can go on."""
PAUSES_S = (1.0, 5.0)
"""Before the second and third try: what is wrong with a disk or a network may pass."""


class Stage(Protocol):
    """What `DoUnit` calls."""

    name: str
    layout: Layout

    def setup(self) -> None:
        """Load models; once per worker process."""

    def process(self, unit: str) -> None:
        """Do one unit and commit it. May be called again for a unit that is done: it must then publish the same."""

    def teardown(self) -> None:
        """End helpers."""


@runtime_checkable
class TransformStage(Stage, Protocol):
    """A stage that is several Beam steps; the engine takes `transform` in place of `DoUnit`."""

    def transform(self) -> beam.PTransform:
        """From unit names to units that are committed or set aside; what it raises ends the run."""


class DoUnit(beam.DoFn):
    """A stage as a Beam function over unit names."""

    def __init__(self, stage: Stage):
        self._stage = stage

    def setup(self) -> None:
        pa.set_cpu_count(1)  # parallelism comes from worker processes
        self._had_plan = self._stage.layout.plan.exists()
        self._stage.setup()

    def process(self, unit: str) -> None:
        if self._is_removed():
            return  # the driver finds the unit undone, and says why
        mark = self._stage.layout.progress(self._stage.name, unit)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()  # a mark that outlives its worker says what the worker died of
        tries: list[dict[str, Any]] = []
        while len(tries) < TRIES:
            if tries:
                time.sleep(PAUSES_S[len(tries) - 1])
            try:
                self._stage.process(unit)
                break
            except FileChanged as error:  # no second try can help
                _give_up(self._stage, unit, [failure(type(error).__name__, str(error))])
                break
            except Exception as error:  # whatever ends a unit must not end the others; it is recorded, and shown
                if self._is_removed():
                    break
                tries.append(failure(type(error).__name__, str(error), traceback.format_exc()))
        else:
            _give_up(self._stage, unit, tries)
        mark.unlink(missing_ok=True)

    def _is_removed(self) -> bool:
        """Whether somebody has removed the output folder, so that nothing can come of what is done in it."""
        return self._had_plan and not self._stage.layout.plan.exists()

    def teardown(self) -> None:
        self._stage.teardown()


def failure(error: str, message: str, trace: str = "") -> dict[str, Any]:
    """What is recorded of a failed try."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"time": now, "error": error, "message": message, "trace": trace}


def _give_up(stage: Stage, unit: str, tries: list[dict[str, Any]]) -> None:
    with contextlib.suppress(OSError):  # a full disk takes no record; the driver finds the unit undone, and says why
        set_aside(stage, unit, tries)


def set_aside(stage: Stage, unit: str, tries: list[dict[str, Any]]) -> None:
    """Record that a unit is given up for this run; the next one tries it again."""
    publish_json(stage.layout.failed(stage.name, unit), {"unit": unit, "stage": stage.name, "tries": tries})
