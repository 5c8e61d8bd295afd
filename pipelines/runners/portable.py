"""Start workers and watch jobs of runners with Beam's Job API, Prism and Flink.

By default (environment PROCESS) boot.py starts the workers. They run the code that the driver
stages, so the hosts of a cluster need Beam and the filters' dependencies, but not this project. A
runner waits forever for workers that cannot start; so boot.py reports to a driver whose folder it
sees, and a job without a worker after `start_seconds` is ended.
"""

import base64
import contextlib
import hashlib
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
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.runner import PipelineResult

from open_diht.common.installation import program_version
from open_diht.common.run_command import ONE_THREAD
from open_diht.pipelines.options import START_SECONDS
from open_diht.pipelines.runners import boot
from open_diht.pipelines.runners.beam_options import given, option_values
from open_diht.pipelines.runners.job import (
    QUIET,
    Backend,
    Job,
    JobAborted,
    JobFailed,
    RunnerError,
    cancel,
    job_error,
)

# Polls cost little: they wait for an event of this process.
POLL_SECONDS = 0.2
_PASSED_ON = ("DIHT_OCR_MODELS",)
"""Environment variables of the driver that workers need."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How to start or find the worker processes of a job."""

    python: str = sys.executable
    """Python of the workers, with Beam and the filters' dependencies; this project need not be
    installed."""
    boot: str | None = None
    """Boot program on hosts that do not share this machine's files, for example in an image; it
    chooses Python and models there."""
    start_seconds: float = START_SECONDS
    """Seconds after which a job is ended if no worker has begun, or on Dask if there was no worker
    for so long."""
    scheduler: str | None = None
    """Address of the Dask scheduler, or the file that has it; see
    `open_diht.pipelines.runners.dask`."""


@dataclass(frozen=True)
class PortableBackend(Backend):
    """Base of the backends for Prism, Flink and Dask, which take Beam's flags and `Workers`."""

    flags: Sequence[str] = ()
    workers: Workers = field(default_factory=Workers)

    @cached_property
    def folder(self) -> tempfile.TemporaryDirectory[str]:
        """A folder for the jobs of a run. `close` removes it."""
        return tempfile.TemporaryDirectory(prefix="diht-run-", ignore_cleanup_errors=True)

    @cached_property
    def wheel(self) -> Path:
        """A wheel of `code_files` for workers that lack only this project."""
        return build_wheel(Path(self.folder.name))

    def close(self) -> None:
        self.__dict__.pop("wheel", None)
        if folder := self.__dict__.pop("folder", None):
            folder.cleanup()


class EndsItsServer(PortableRunner):
    """A runner that keeps its job server in `server`, so that the server can be stopped; Beam would
    not stop it."""

    server: Any = None

    def default_job_server(self, options: PipelineOptions) -> Any:
        self.server = super().default_job_server(options)
        return self.server

    def stop(self) -> None:
        """Stop the job server, if there is one. The next job gets a new one, because this one keeps
        its port."""
        if self.server is not None:
            self.server.stop()
            self.server = None


def environment_type(flags: Sequence[str]) -> str:
    """Return the environment type in the flags, by default PROCESS."""
    return str(option_values(flags)["environment_type"] or "PROCESS")


def check_workers(workers: Workers, flags: Sequence[str]) -> None:
    """Raise RunnerError for an unknown environment type, or a Python of boot.py that this machine
    lacks."""
    kind = environment_type(flags)
    if kind not in ("PROCESS", "LOOPBACK", "EXTERNAL", "DOCKER"):
        raise RunnerError(
            f"unknown environment type {kind!r}; choose PROCESS, LOOPBACK, EXTERNAL or DOCKER"
        )
    own = workers.boot or given(flags, "environment_config")
    if kind == "PROCESS" and not own and shutil.which(workers.python) is None:
        raise RunnerError(f"--worker-python {workers.python} is not a program on this machine")


def run(
    runner: EndsItsServer,
    job: Job,
    flags: Sequence[str],
    backend: PortableBackend,
    *,
    end_seconds: float = math.inf,
) -> None:
    """Run a job of a backend to its end on its runner. Flags that start workers are added.
    `end_seconds` is how long the runner may take to end a job after a worker has died; infinite for
    a runner that may start another worker. Raise JobFailed if the job failed, if no worker could be
    started or began in time, or if a worker died and the job did not end."""
    with (
        tempfile.TemporaryDirectory(prefix="diht-job-", ignore_cleanup_errors=True) as folder,
        _own_python_first(),
    ):
        options = PipelineOptions([*QUIET, *_worker_flags(Path(folder), flags, backend), *flags])
        pipeline = beam.Pipeline(runner=runner, options=options)
        job.build(pipeline)
        result = _submit(pipeline, job)
        try:
            _watch(result, job, Path(folder), backend.workers.start_seconds, end_seconds)
        except BaseException:
            cancel(result)
            raise


class NotSubmitted(JobFailed):
    """A job could not be submitted. The cause is Beam's error."""


def _why(error: Exception) -> str:
    """Return the message of an error. That of gRPC is one line; its text would be five."""
    return str(error.details() if isinstance(error, grpc.Call) else error).strip()


def _submit(pipeline: beam.Pipeline, job: Job) -> PipelineResult:
    """Submit a job. Restore the handler of ^C, because the handler of Beam's job server hangs at a
    second ^C."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        return pipeline.run()
    except Exception as error:  # many kinds: no jar, the cluster is gone
        raise NotSubmitted(
            f"{job.label}: the job could not be submitted: {_why(error)[-2_000:]}"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _own_python_first() -> Iterator[None]:
    """Put this Python first on PATH during the `with` block, because Beam's LOOPBACK workers start
    `python`."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _worker_flags(folder: Path, flags: Sequence[str], backend: PortableBackend) -> list[str]:
    kind = environment_type(flags)
    workers = backend.workers
    found = [f"--environment_type={kind}", "--experiments=disable_logging_submission_environment"]
    if kind == "PROCESS" and not given(flags, "environment_config"):
        variables = {name: os.environ.get(name, value) for name, value in ONE_THREAD.items()}
        variables |= {boot.FOLDER_VARIABLE: str(folder), boot.CWD_VARIABLE: os.getcwd()}
        if not workers.boot:
            variables |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        config = {
            "command": workers.boot or str(_launcher(folder, workers.python)),
            "env": variables,
        }
        found.append(f"--environment_config={json.dumps(config)}")
    staged = any(
        given(flags, name) for name in ("setup_file", "extra_package", "sdk_container_image")
    )
    return found if staged or kind == "LOOPBACK" else [*found, f"--extra_package={backend.wheel}"]


def _launcher(folder: Path, python: str) -> Path:
    """Write a script that runs boot.py with a Python, because an environment can only name a
    program."""
    path = folder / "boot"
    program = Path(boot.__file__).resolve()
    # -P keeps the folder of boot.py off its import path.
    path.write_text(
        f'#!/bin/sh\nexec {shlex.quote(python)} -P {shlex.quote(str(program))} "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


def _watch(
    result: PipelineResult, job: Job, folder: Path, start_seconds: float, end_seconds: float
) -> None:
    """Wait for the end of a job. Raises JobFailed if it fails, if boot.py reports that a worker did
    not start, or if the job does not start or end in time. It is JobAborted if a worker may have
    died at a unit."""
    ended = threading.Event()
    failure = list[Exception]()

    def wait() -> None:
        try:
            result.wait_until_finish()
        except Exception as error:  # Beam raises RuntimeError or a gRPC error
            failure.append(error)
        finally:
            ended.set()

    # Waiting blocks until the job ends, so it has a thread of its own.
    threading.Thread(target=wait, daemon=True, name=f"wait-{job.label}").start()
    began = time.monotonic()
    started = False
    while not ended.wait(POLL_SECONDS):
        started = started or job.started()
        # A runner may report or replace a worker that dies at work, but not one that never started.
        dead = list(folder.glob("died-*.txt"))
        reports = [*folder.glob("failed-*.txt"), *([] if started else dead)]
        if reports and not ended.wait(1.0):  # the runner may have a better message
            raise JobFailed(
                f"{job.label}: a worker could not be started:"
                f" {reports[0].read_text(encoding='utf-8')}"
            )
        if dead and time.time() - dead[0].stat().st_mtime > end_seconds:
            message = dead[0].read_text(encoding="utf-8")
            raise JobAborted(
                f"{job.label}: the job failed: {message} (the runner did not end it by itself)"
            )
        if not started and time.monotonic() - began > start_seconds:
            raise JobFailed(
                f"{job.label}: no worker started within {start_seconds:.0f} seconds; look at the"
                " runner's and the workers' logs (workers.log in OUTPUT/work if that is on a disk,"
                " the task managers', or diht-boot-*.log in the temporary folder of the workers'"
                " hosts), or allow more with --start-timeout"
            )
    if failure:
        raise job_error(f"{job.label}: the job failed", failure[0]) from failure[0]


_RUN_BY_WORKERS = ("common", "filters", "pipelines")
_KINDS = (".css", ".j2", ".js", ".json", ".npz", ".onnx", ".py", ".tsv", ".txt", ".yaml")


def code_files() -> dict[str, Path]:
    """Return the code and data files of the folders that workers use, sorted, by names relative to
    `open_diht`."""
    tops = Path(__file__).resolve().parents[2]
    paths = (
        path for top in _RUN_BY_WORKERS for path in (tops / top).rglob("*") if path.suffix in _KINDS
    )
    package = Path(find_spec("open_diht").origin)  # type: ignore[union-attr, arg-type]
    return {
        package.name: package,
        **{path.relative_to(tops).as_posix(): path for path in sorted(paths)},
    }


def build_wheel(folder: Path) -> Path:
    """Write a wheel of `code_files` into a folder, and return its path."""
    version = program_version()
    path = folder / f"open_diht-{version}-py3-none-any.whl"
    about = f"open_diht-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        rows = [f"{about}/RECORD,,\n"]

        def add(name: str, content: bytes) -> None:
            # ZipInfo has a constant date: workers recognize an installed wheel by its hash.
            wheel.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
            digest = (
                base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            )
            rows.append(f"{name},sha256={digest},{len(content)}\n")

        for name, file in code_files().items():
            add(f"open_diht/{name}", file.read_bytes())
        metadata = f"Metadata-Version: 2.1\nName: open-diht\nVersion: {version}\n"
        add(f"{about}/METADATA", metadata.encode())
        add(f"{about}/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        add(f"{about}/RECORD", "".join(rows).encode())  # workers check the sizes in it
    return path


@cache
def code_digest() -> str:
    """Return a hash of `code_files`, 12 hex digits. The first call computes it, because later
    changes on disk do not affect what this process has imported."""
    digest = hashlib.sha256()
    for name, path in code_files().items():
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
