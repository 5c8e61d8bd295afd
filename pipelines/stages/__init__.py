"""The stages: each turns one unit into published files and a commit record.

A stage is a small picklable object: settings in its constructor, models in `setup`, one unit in `process`. `DoUnit` is
all that Beam sees.
"""

from __future__ import annotations

from typing import Protocol

import apache_beam as beam
import pyarrow as pa


class Stage(Protocol):
    """What `DoUnit` calls."""

    name: str

    def setup(self) -> None:
        """Load models; once per worker process."""

    def process(self, unit: str) -> None:
        """Do one unit and commit it. May be called again for a unit that is done: it must then publish the same."""

    def teardown(self) -> None:
        """End helpers."""


class DoUnit(beam.DoFn):
    """A stage as a Beam function over unit names."""

    def __init__(self, stage: Stage):
        self._stage = stage

    def setup(self) -> None:
        pa.set_cpu_count(1)  # parallelism comes from worker processes
        self._stage.setup()

    def process(self, unit: str) -> None:
        self._stage.process(unit)

    def teardown(self) -> None:
        self._stage.teardown()
