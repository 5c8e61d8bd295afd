"""Worker processes of the local runner, watched: one that dies ends the job instead of letting it wait for ever.

FnApiRunner waits for a worker's answer without limit. A worker that the kernel kills for want of memory, or that a
library crashes, would never answer; here its open requests are answered with an error. Workers are forked from one
process, see fork_server.py.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from google.protobuf import json_format

from open_diht.common.run_command import ONE_THREAD
from open_diht.pipelines.runners.fork_server import ForkServer, how_it_ended

_ANSWER_SECONDS = 0.1
_deaths: list[str] = []


class WorkerDied(RuntimeError):
    """A worker process ended before its work did."""


class _WatchedWorkerHandler(worker_handlers.SubprocessSdkWorkerHandler):
    """Beam's handler of a worker process, which answers for a dead one."""

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
        self.worker_thread = threading.Thread(target=self._watch, args=(connection,), name="run_worker", daemon=True)
        self.worker_thread.start()

    def stop_worker(self) -> None:
        if isinstance(sys.exception(), KeyboardInterrupt):  # nobody waits for the end of a unit then
            ForkServer.end()
        # Beam tells only workers that have connected; one that is still starting would wait for its first request.
        self.control_conn.push(worker_handlers.BeamFnControlServicer._DONE_MARKER)
        self._stopped.set()
        super().stop_worker()

    def _watch(self, connection: socket.socket) -> None:
        status = how_it_ended(connection)
        if status == 0:
            return
        if status is None:
            _deaths.append("the process that starts workers was killed")
        else:
            _deaths.append(f"killed by signal {-status}" if status < 0 else f"exit status {status}")
        # Not Beam's `abort`: who waits for the data of an aborted request waits for ever.
        while not self._stopped.wait(_ANSWER_SECONDS):  # Beam may still ask it for more
            for future in list(self.control_conn._futures_by_id.values()):
                future.set(
                    beam_fn_api_pb2.InstructionResponse(
                        instruction_id=future.instruction_id, error="the worker process died"
                    )
                )


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
