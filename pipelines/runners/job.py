"""The interface of backends, their jobs and their errors."""

import contextlib
import hashlib
import math
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import apache_beam as beam
from apache_beam.runners.runner import PipelineResult

_FAILED = re.compile(r"\bstate:? FAILED\b", re.IGNORECASE)
"""The state of a job in Beam's errors: "failed in state FAILED" of portable runners, "State:
FAILED" of Dataflow."""
QUIET = ("--default_sdk_harness_log_level=ERROR",)
"""Flags of every job, which the user's flags can override. They hide all messages of Beam's workers
but errors."""

STOP_SECONDS = 300.0
"""How long a stopped driver waits for the end of a job that it has cancelled. Flink ends a task
that does not react after 180 seconds, and Dataflow takes some minutes to stop machines. A second
signal does not wait."""


class RunnerError(ValueError):
    """The runner cannot be used here or with these options, or its cluster does not answer."""


class JobFailed(RuntimeError):
    """A job failed. Units done so far are committed; the same command resumes."""


class JobAborted(JobFailed):
    """A runner gave up a job that it had begun, as it does when a worker dies. Units without an end
    have marks."""


class WorkerDied(RuntimeError):
    """A worker process died before its work was done."""


class Staged(Exception):
    """A job was staged as a template and not started, as requested. The message has the template's
    path."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of a run as one Beam job."""

    label: str
    """Name of the stage."""
    build: Callable[[beam.Pipeline], None]
    """Adds the transforms to a pipeline."""
    workers: int
    """Most units that `direct` and Flink run at the same time. Dask gets partitions in proportion;
    Prism and Dataflow ignore it."""
    started: Callable[[], bool] = lambda: True
    """Returns whether a worker has begun."""
    place: str = ""
    """Name of the run that the job belongs to, see `engine.jobs.run_name`."""


class Backend(Protocol):
    """A place where jobs run. Backends inherit the defaults defined here, or override them."""

    @property
    def name(self) -> str:
        """Name of the backend, the value of --runner."""

    @property
    def takes_hints(self) -> bool:
        """True if machines can be chosen by the resource hints of stages. Beam starts separate
        worker processes for each stage with hints, so other backends get no hints."""
        return False

    @property
    def detached(self) -> bool:
        """True if jobs are only staged, and run after the driver has ended."""
        return False

    @property
    def by_partition(self) -> bool:
        """True if the backend distributes partitions of the created collection, ignores Reshuffle,
        and sets a function up for each partition. The job then holds the unit names, and a process
        reuses the stage that it has set up.
        """
        return False

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        """Check that jobs can run here. `places` are the data that they write and read, but not
        model weights: (name such as OUTPUT or INPUT, path). Raise RunnerError if jobs cannot run;
        nothing was started.
        """
        return None

    def default_workers(self) -> int:
        """Return the default number of units at a time. Raises RunnerError if the cluster does not
        answer."""
        return 1

    def await_units(self, place: str, say: Callable[[str], None]) -> None:
        """Wait until no worker is running a unit of a stopped run, whose jobs are cancelled where a
        cluster has not noticed that their driver is gone; by default, return at once. `place` is
        the name of the run, see `engine.jobs.run_name`."""
        return None

    def close(self) -> None:
        """End what the backend has started or written for the jobs of a run; by default, nothing. A
        later job starts it again."""
        return None

    def run(self, job: Job) -> None:
        """Run a job to its end. Raise JobFailed (JobAborted if a worker may have died), WorkerDied,
        RunnerError or, on this machine, Beam's RuntimeError. Raise Staged if the job was only
        staged."""


def job_error(said: str, error: Exception) -> JobFailed:
    """Return the error of a submitted job: `JobAborted` if it failed. It is `JobFailed` if, for
    example, the user has cancelled the job or its cluster is gone. `said` is the beginning of the
    message, `error` is Beam's.
    """
    text = str(error).strip()
    kind = JobAborted if _FAILED.search(text) else JobFailed
    return kind(f"{said}: {text[-2_000:]}")


def job_name(label: str, place: str) -> str:
    """Return a new name for a job of a stage, by which `is_of_run` recognizes it. It fits the
    services, which allow lowercase letters, digits and hyphens. It is unique because shards work in
    one place at the same time.
    """
    stage = re.sub("[^a-z0-9]+", "-", label.lower()).strip("-")
    return f"diht-{stage}-{_id_of(place)}-{uuid.uuid4().hex[:6]}"


def is_of_run(name: str, place: str) -> bool:
    """Return whether `job_name` has made a name for a job of the run `place`."""
    return re.fullmatch(f"diht-[a-z0-9-]*-{_id_of(place)}-[0-9a-f]{{6}}", name) is not None


def _id_of(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def end_jobs(
    running: Callable[[], Mapping[str, str]],
    end: Callable[[str], None],
    say: Callable[[str], None],
    seconds: float = math.inf,
    poll_seconds: float = 0.5,
) -> None:
    """Cancel the jobs of a cluster that are `running`, and wait until none is. Raise RunnerError
    after `seconds`.

    Args:
        running: returns the names of the jobs to cancel, by id, except those that have ended.
        end: asks the cluster to cancel the job with an id.
        say: receives a line for each job.
    """
    began = time.monotonic()
    asked = set[str]()
    while jobs := running():
        for job in jobs.keys() - asked:
            say(f"cancelling job {jobs[job]} ({job}) and waiting for its end")
            end(job)
            asked.add(job)
        if time.monotonic() - began > seconds:
            raise RunnerError(
                f"job {', '.join(jobs.values())} has not ended within {seconds:.0f} seconds"
            )
        time.sleep(poll_seconds)


def to_log(line: str) -> None:
    """Write a line to the log of the workers, to which standard error is redirected during a
    job."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def cancel(result: PipelineResult) -> None:
    """Cancel a failed or interrupted job. Ignore errors, and a runner that does not answer within
    10 seconds."""

    def ask() -> None:
        with contextlib.suppress(Exception):  # the error of the job is the one to show
            result.cancel()

    # A daemon thread, so that a call that blocks cannot keep the process alive.
    canceller = threading.Thread(target=ask, daemon=True)
    canceller.start()
    canceller.join(10.0)
