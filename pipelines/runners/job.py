"""What a runner is given to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import apache_beam as beam

QUIET = ("--default_sdk_harness_log_level=ERROR",)
"""Flags of every job: Beam is chatty, and a progress line is not a log."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of a run as one Beam job."""

    label: str
    """Name of the stage."""
    build: Callable[[beam.Pipeline], None]
    """Adds the transforms to a pipeline."""
    workers: int
    """Units that may run at the same time."""
    started: Callable[[], bool] = lambda: True
    """Whether a worker has begun."""


class Backend(Protocol):
    """A place where jobs run."""

    @property
    def name(self) -> str:
        """What RUNNER says."""

    @property
    def takes_hints(self) -> bool:
        """Whether machines are chosen by the resource hints of stages. A stage with hints has worker processes of its
        own, so other backends are told of none."""

    @property
    def detached(self) -> bool:
        """Whether jobs are only staged and run when the driver has gone."""

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        """Look whether jobs can be run here that write and read at `places`, each with what the user calls it (OUTPUT,
        INPUT, ...). Raises RunnerError; nothing was started."""

    def default_workers(self) -> int:
        """How many units run at the same time where nobody says."""

    def run(self, job: Job) -> None:
        """Run a job to its end. Raises JobFailed, or what a stage raised; Staged where it was only to be staged."""
