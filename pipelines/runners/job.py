"""What a runner is given to do, what every place to run offers, and what can go wrong there."""

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


class RunnerError(ValueError):
    """The runner cannot be used as asked; nothing was started. The message names the remedy."""


class JobFailed(RuntimeError):
    """A job was started and did not end well. Units done so far are committed; the same command resumes."""


class Staged(Exception):
    """A job was staged as a template, as asked, and not started. The message says where."""


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
    """A place where jobs run. What is defined here is the usual case, which a place inherits or overrides."""

    @property
    def name(self) -> str:
        """Its name in `RUNNERS`."""

    @property
    def takes_hints(self) -> bool:
        """Whether machines are chosen by the resource hints of stages. Each stage with hints has worker processes of
        its own, so other places get none."""
        return False

    @property
    def detached(self) -> bool:
        """Whether jobs are only staged, and run after the driver has ended."""
        return False

    @property
    def by_partition(self) -> bool:
        """Whether elements are spread as partitions of what a job creates, and by no Reshuffle; a function is set up
        for each. Then the job itself holds the unit names, and a process keeps the stage that it has set up."""
        return False

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        """Check that jobs can run here.

        Args:
            places: what jobs write and read, each with what the user calls it (OUTPUT, INPUT, ...).

        Raises:
            RunnerError: they cannot; nothing was started.
        """
        return None

    def default_workers(self) -> int:
        """How many units run at the same time where nobody says."""
        return 1

    def await_units(self, place: str, say: Callable[[str], None]) -> None:
        """Wait until no worker is at a unit of a stopped run. Most workers end with their driver.

        Args:
            place: of the run's jobs, see `run_units`.
            say: prints a line for people.
        """
        return None

    def run(self, job: Job) -> None:
        """Run a job to its end. Raises JobFailed, or what a stage raised; Staged where it was only to be staged."""


def cancel(result: PipelineResult) -> None:
    """Cancel a job whose error is about to be shown; a runner that has ended need not answer."""

    def ask() -> None:
        with contextlib.suppress(Exception):  # whatever it is, the error that brought us here is the one to show
            result.cancel()

    canceller = threading.Thread(target=ask, daemon=True)
    canceller.start()
    canceller.join(10.0)
