"""Runners behind Beam's Job API, Prism and Flink: where their workers come from, and how a job is watched.

Workers are processes started by boot.py (environment PROCESS, the default) and run the code that the driver stages, so
the hosts of a cluster need Beam and the filters' libraries and not this project. A job whose workers cannot start waits
for ever and says nothing; so the boot programs report here, and a job of which no worker has begun in time is ended.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineResult

from open_diht.common.run_command import ONE_THREAD
from open_diht.pipelines.runners import boot
from open_diht.pipelines.runners.beam_options import given, option_values
from open_diht.pipelines.runners.errors import JobFailed, RunnerError
from open_diht.pipelines.runners.job import QUIET, Job, cancel
from open_diht.pipelines.runners.package import build_wheel

START_SECONDS = 600.0
"""How long a job may go without a worker that has begun; big clusters take minutes to hand out slots."""
POLL_SECONDS = 0.2
_PASSED_ON = ("DIHT_OCR_MODELS",)
"""Variables of the driver that workers need."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where the worker processes of a job come from."""

    python: str = sys.executable
    """Python of the workers, which has Beam and the filters' libraries; this project need not be there."""
    boot: str | None = None
    """The boot program on hosts that do not share this machine's files, in an image for example; it chooses python and
    models there."""
    start_seconds: float = START_SECONDS
    """After this time without a worker that has begun, or on Dask without any, the job is ended."""
    scheduler: str | None = None
    """Address of the scheduler whose workers they are, of Dask; see `open_diht.pipelines.runners.dask`."""


@dataclass(frozen=True)
class PortableBackend:
    """What a `Backend` of these is made with. A job's host is not chosen by hints, and the driver waits for it."""

    flags: Sequence[str] = ()
    workers: Workers = field(default_factory=Workers)
    takes_hints: bool = field(default=False, init=False)
    detached: bool = field(default=False, init=False)
    by_partition: bool = field(default=False, init=False)

    def await_units(self, place: str, say: Callable[[str], None]) -> None:
        pass  # workers end with their job, and this with its driver, unless that is killed


def environment_type(flags: Sequence[str]) -> str:
    """PROCESS where the user chose none."""
    return str(option_values(flags)["environment_type"] or "PROCESS")


def check_workers(workers: Workers, flags: Sequence[str]) -> None:
    """Raises RunnerError where workers cannot be started on this machine though they are asked to."""
    kind = environment_type(flags)
    if kind not in ("PROCESS", "LOOPBACK", "EXTERNAL", "DOCKER"):
        raise RunnerError(f"unknown environment type {kind!r}; choose PROCESS, LOOPBACK, EXTERNAL or DOCKER")
    own = workers.boot or given(flags, "environment_config")
    if kind == "PROCESS" and not own and shutil.which(workers.python) is None:
        raise RunnerError(f"--worker-python {workers.python} is not a program on this machine")


def run(
    runner: PortableRunner, job: Job, flags: Sequence[str], workers: Workers, *, end_seconds: float = math.inf
) -> None:
    """Run a job on a portable runner to its end.

    Args:
        runner: Prism's or Flink's, not started.
        job: what to do.
        flags: Beam's options, all but those that say where workers come from.
        workers: where they come from.
        end_seconds: how long the runner may take to end a job of which a worker has died. Without limit where it may
            start another worker.

    Raises:
        JobFailed: it did not end well, no worker could be started, none began in time, or one died and the job stayed.
    """
    with _boot_folder() as folder, _own_python_first():
        options = PipelineOptions([*QUIET, *_worker_flags(folder, flags, workers), *flags])
        pipeline = beam.Pipeline(runner=runner, options=options)
        job.build(pipeline)
        with contextlib.ExitStack() as stack:
            stack.callback(_JobServer(runner).stop)
            result = pipeline.run()
            try:
                _watch(result, job, folder, workers.start_seconds, end_seconds)
            except BaseException:
                cancel(result)
                raise


class _JobServer:
    """The server that a runner submits a job to, and no longer than for that: Beam would leave it until this process
    exits in its own time. Nor is ^C Beam's, whose handler waits for itself where a second one comes."""

    def __init__(self, runner: PortableRunner):
        self._make = runner.default_job_server
        self._server: Any = None
        runner.default_job_server = self._made  # type: ignore[method-assign]

    def _made(self, options: PipelineOptions) -> _JobServer:
        self._server = self._make(options)
        return self

    def start(self) -> Any:
        asked = signal.getsignal(signal.SIGINT)
        try:
            return self._server.start()
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, asked)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


@contextlib.contextmanager
def _boot_folder() -> Iterator[Path]:
    """The folder of this job's boot programs: their launcher, their files, their reports."""
    folder = Path(tempfile.mkdtemp(prefix="diht-job-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a worker that is just ending may still write


@contextlib.contextmanager
def _own_python_first() -> Iterator[None]:
    """Beam's worker pool of LOOPBACK starts whatever `python` is first on PATH: let it be this one."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _worker_flags(folder: Path, flags: Sequence[str], workers: Workers) -> list[str]:
    kind = environment_type(flags)
    found = [f"--environment_type={kind}", "--experiments=disable_logging_submission_environment"]
    if kind == "PROCESS" and not given(flags, "environment_config"):
        variables = {name: os.environ.get(name, value) for name, value in ONE_THREAD.items()}
        variables |= {boot.FOLDER_VARIABLE: str(folder), boot.CWD_VARIABLE: os.getcwd()}
        if not workers.boot:
            variables |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        config = {"command": workers.boot or str(_launcher(folder, workers.python)), "env": variables}
        found.append(f"--environment_config={json.dumps(config)}")
    staged = given(flags, "setup_file") or given(flags, "extra_package") or given(flags, "sdk_container_image")
    wheel = None if staged or kind == "LOOPBACK" else build_wheel()
    return [*found, f"--extra_package={wheel}"] if wheel else found


def _launcher(folder: Path, python: str) -> Path:
    """One executable without arguments, which is all that an environment can name."""
    path = folder / "boot"
    program = Path(boot.__file__).resolve()
    # -P: the folder of boot.py is not where its imports come from.
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} -P {shlex.quote(str(program))} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def _watch(result: PipelineResult, job: Job, folder: Path, start_seconds: float, end_seconds: float) -> None:
    """Wait for the end of a job, for a report of a boot program, or for a start or an end that does not come."""
    ended = threading.Event()
    failure: list[BaseException] = []

    def wait() -> None:
        try:
            result.wait_until_finish()
        except Exception as error:  # Beam raises RuntimeError or a gRPC error; the driver says it in its own words
            failure.append(error)
        finally:
            ended.set()

    threading.Thread(target=wait, daemon=True, name=f"wait-{job.label}").start()
    began, started = time.monotonic(), False
    while not ended.wait(POLL_SECONDS):
        started = started or job.started()
        # Runners tell of a worker that dies at work, and may start another; of one that never came they do not tell.
        dead = list(folder.glob("died-*.txt"))
        reports = [*folder.glob("failed-*.txt"), *([] if started else dead)]
        if reports and not ended.wait(1.0):  # the runner may be about to tell it better
            message = reports[0].read_text(encoding="utf-8")
            raise JobFailed(f"{job.label}: a worker could not be started: {message}")
        if dead and time.time() - dead[0].stat().st_mtime > end_seconds:
            message = dead[0].read_text(encoding="utf-8")
            raise JobFailed(f"{job.label}: the job failed: {message} (the runner did not end it by itself)")
        if not started and time.monotonic() - began > start_seconds:
            raise JobFailed(
                f"{job.label}: no worker has begun within {start_seconds:.0f} seconds; look at the runner's and the "
                "workers' logs (workers.log in the output folder, or the task managers'), or allow more with "
                "--start-timeout"
            )
    if failure:
        raise JobFailed(f"{job.label}: the job failed: {str(failure[0]).strip()[-2_000:]}") from failure[0]
