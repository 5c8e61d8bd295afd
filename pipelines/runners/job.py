"""What a runner is given to do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import apache_beam as beam
from apache_beam.runners.runner import PipelineResult

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

    @property
    def by_partition(self) -> bool:
        """Whether elements are spread as partitions of what a job creates, and by no Reshuffle; a function is set up
        for each. Then unit names are in the job itself, and a process keeps the stage that it has set up."""

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        """Look whether jobs can be run here that write and read at `places`, each with what the user calls it (OUTPUT,
        INPUT, ...). Raises RunnerError; nothing was started."""

    def default_workers(self) -> int:
        """How many units run at the same time where nobody says."""

    def await_units(self, place: str, say: Callable[[str], None]) -> None:
        """Wait until no worker is at a unit of a job of this place (see `run_units`) whose run was stopped. For who
        calls this no job runs."""

    def run(self, job: Job) -> None:
        """Run a job to its end. Raises JobFailed, or what a stage raised; Staged where it was only to be staged."""


def cancel(result: PipelineResult) -> None:
    """End a job that nobody waits for; a runner that has gone needs no telling."""
    canceller = threading.Thread(target=_try_cancel, args=(result,), daemon=True)
    canceller.start()
    canceller.join(10.0)


def _try_cancel(result: PipelineResult) -> None:
    with contextlib.suppress(Exception):  # whatever it is, the error that brought us here is the one to show
        result.cancel()
