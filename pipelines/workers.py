"""Worker processes of the local runner, watched: one that dies ends the job instead of letting it wait for ever.

FnApiRunner waits for a worker's answer without limit. A worker that the kernel kills for want of memory, or that a
library crashes, would never answer; here its open requests are answered with an error.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import worker_handlers

_deaths: list[str] = []


class WorkerDied(RuntimeError):
    """A worker process ended before its work did."""


class _WatchedWorkerHandler(worker_handlers.SubprocessSdkWorkerHandler):
    """Beam's handler of a worker process, which answers for a dead one."""

    def start_worker(self) -> None:
        self.worker = local_job_service.SubprocessSdkWorker(
            self._worker_command_line, self.control_address, self.provision_info, self.worker_id
        )
        self.worker_thread = threading.Thread(target=self._watch, name="run_worker", daemon=True)
        self.worker_thread.start()

    def _watch(self) -> None:
        try:
            self.worker.run()
        except RuntimeError as error:
            _deaths.append(str(error))
            connection, push = self.control_conn, self.control_conn.push

            def refuse(request: beam_fn_api_pb2.InstructionRequest) -> worker_handlers.ControlFuture | None:
                future = push(request)
                if future is not None:
                    future.set(_dead(future.instruction_id))
                return future

            connection.push = refuse  # type: ignore[method-assign, assignment]
            for future in list(connection._futures_by_id.values()):
                future.set(_dead(future.instruction_id))


def _dead(instruction: str) -> beam_fn_api_pb2.InstructionResponse:
    return beam_fn_api_pb2.InstructionResponse(instruction_id=instruction, error="the worker process died")


@contextmanager
def watched_workers() -> Iterator[None]:
    """The local runner starts its worker processes under watch while the `with` block runs.

    Raises:
        WorkerDied: a worker process ended by itself. The others have done what they had been given.
    """
    register = worker_handlers.WorkerHandler.register_environment
    register(python_urns.SUBPROCESS_SDK, bytes)(_WatchedWorkerHandler)
    _deaths.clear()
    try:
        yield
    except RuntimeError as error:
        if _deaths:
            raise WorkerDied(f"a worker process ended by itself ({_deaths[0]})") from error
        raise
