"""The backend on this machine: Beam's embedded runner with worker processes, which are watched.

FnApiRunner waits for the answers of a worker forever. So if the kernel kills a worker for lack of
memory or a library crashes it, its open requests are answered with an error. Workers are forked
from one process, see fork_server.py.
"""

import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2, beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner, worker_handlers
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from google.protobuf import json_format

from open_diht.common.run_command import ONE_THREAD
from open_diht.pipelines.runners.beam_private import end_requests, open_requests
from open_diht.pipelines.runners.fork_server import ForkServer, how_it_ended
from open_diht.pipelines.runners.job import QUIET, Backend, Job, RunnerError, WorkerDied

MOST_PER_CORE = 64
"""Most workers for a core. More are a slip, such as a number of rows, and would exhaust the memory
of most machines."""


def check_workers(workers: int) -> int:
    """Return `workers`. Raises RunnerError if it is too large to be intended."""
    cores = os.cpu_count() or 1
    if workers > MOST_PER_CORE * cores:
        raise RunnerError(
            f"{workers:,} workers on this machine's {cores} cores are more than {MOST_PER_CORE} for"
            f" each; give at most {MOST_PER_CORE * cores:,}, or leave --workers out for one per"
            " core"
        )
    return workers


@dataclass(frozen=True)
class Direct(Backend):
    """A `Backend` on this machine. It constructs FnApiRunner itself: if the runner is requested by
    name, its worker processes start without pipeline options, and for "DirectRunner" Beam first
    tries to download another runner.
    """

    flags: Sequence[str] = ()
    name = "direct"

    def default_workers(self) -> int:
        return os.cpu_count() or 1

    def run(self, job: Job) -> None:
        workers = [f"--direct_num_workers={job.workers}", "--direct_running_mode=multi_processing"]
        options = PipelineOptions([*QUIET, *workers, *self.flags])
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        runner = fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
        pipeline = beam.Pipeline(runner=runner, options=options)
        job.build(pipeline)
        with watched_workers():
            pipeline.run().wait_until_finish()


# Seconds between answers to requests that Beam may still send to a dead worker.
_ANSWER_SECONDS = 0.1
_deaths: list[str] = []


class _WatchedWorkerHandler(worker_handlers.SubprocessSdkWorkerHandler):
    """Beam's handler of a worker process, extended to answer requests to a dead worker with an
    error."""

    def start_worker(self) -> None:
        options = json_format.MessageToJson(self.provision_info.provision_info.pipeline_options)
        connection = ForkServer.running().fork(
            {
                **ONE_THREAD,
                **os.environ,
                "WORKER_ID": self.worker_id,
                "CONTROL_API_SERVICE_DESCRIPTOR": f'url: "{self.control_address}"',
                "PIPELINE_OPTIONS": options,
            }
        )
        self._stopped = threading.Event()
        self.worker_thread = threading.Thread(
            target=self._watch, args=(connection,), name="run_worker", daemon=True
        )
        self.worker_thread.start()

    def stop_worker(self) -> None:
        # After ^C, do not wait for units that run.
        if isinstance(sys.exception(), KeyboardInterrupt):
            ForkServer.end()
        end_requests(self.control_conn)
        self._stopped.set()
        super().stop_worker()

    def _watch(self, connection: socket.socket) -> None:
        status = how_it_ended(connection)
        if status == 0:
            return
        if status is None:
            _deaths.append("the process that starts workers ended")
        else:
            _deaths.append(f"killed by signal {-status}" if status < 0 else f"exit status {status}")
        while not self._stopped.wait(_ANSWER_SECONDS):
            for future in open_requests(self.control_conn):
                future.set(
                    beam_fn_api_pb2.InstructionResponse(
                        instruction_id=future.instruction_id, error="the worker process died"
                    )
                )


@contextmanager
def watched_workers() -> Iterator[None]:
    """Make the local runner watch the worker processes that it starts during the `with` block. If a
    worker died, raise WorkerDied after the other workers have finished their units. Raise it also
    if the process that starts workers ended; on Linux the workers end with it."""
    register = worker_handlers.WorkerHandler.register_environment
    register(python_urns.SUBPROCESS_SDK, bytes)(_WatchedWorkerHandler)
    _deaths.clear()
    try:
        yield
    except RuntimeError as error:
        if _deaths:
            raise WorkerDied(f"a worker process ended unexpectedly ({_deaths[0]})") from error
        raise
