"""The process that local workers are forked from. It has imported Beam and the stages, so a worker
starts in milliseconds.

The server listens on a socket. Each byte requests a worker, and comes with two descriptors: a
connection, and the standard error of the worker. The worker reads its environment, folder and
import path from the connection; the server writes the worker's exit status to it. The server has
one Python thread and uses no gRPC, which makes forking safe.

When the driver ends in any way, the socket closes, the server ends, and on Linux the kernel kills
its workers. Unlike multiprocessing's forkserver, this server is forked from a driver that is a
command, so that nothing is imported twice and workers share the driver's memory, and it passes
standard error on to each worker.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import ClassVar, NoReturn

from open_diht.common.run_command import ONE_THREAD

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IMPORT_ROOT = Path(__file__).parents[3]  # not resolved: in a checkout open_diht/ holds links
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_MORE_LIKELY = 100  # of 1000: as if the worker used another tenth of the machine's memory


class ForkServer:
    """The driver's end of the fork server. A driver has at most one."""

    preloaded: ClassVar[tuple[str, ...]] = (
        "apache_beam.runners.worker.sdk_worker_main",
        "open_diht.pipelines.driver.run",
    )
    """Modules that a newly started server imports for its workers: Beam's worker and the stages of
    a filter run."""
    _running: ForkServer | None = None

    def __init__(self, orders: socket.socket, process: int):
        self._orders = orders
        self._process = process

    @classmethod
    def branch_off(cls) -> None:
        """Fork the server from this process, after all imports. Do nothing if a server runs
        already, or if this process has other threads, as in a notebook: a fork inherits the locks
        of threads that it does not have, so its workers would wait for ever. `running` then starts
        a server in a new process, which takes seconds."""
        if threading.active_count() > 1 or cls._is_running():
            return
        # the collector never scans imported objects again, so workers keep sharing their memory
        gc.freeze()
        ours, theirs = socket.socketpair()
        # Block signals until the server ignores them.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)
        process = os.fork()
        if process == 0:
            ours.close()
            _serve(theirs)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
        theirs.close()
        cls._running = ForkServer(ours, process)

    @classmethod
    def running(cls) -> ForkServer:
        """Return the running server. If there is none, start one, whose imports take seconds."""
        if not cls._is_running():
            ours, theirs = socket.socketpair()
            path = os.pathsep.join([str(_IMPORT_ROOT), *filter(None, sys.path)])
            with theirs:
                process = os.posix_spawn(
                    sys.executable,
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "open_diht.pipelines.runners.fork_server",
                        *cls.preloaded,
                    ],
                    {**ONE_THREAD, **os.environ, "PYTHONPATH": path},
                    file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
                )
            cls._running = ForkServer(ours, process)
        assert cls._running is not None
        return cls._running

    @classmethod
    def end(cls) -> None:
        """Kill the server and with it, on Linux, all workers."""
        if cls._running is not None:
            with contextlib.suppress(ChildProcessError, ProcessLookupError):  # it has ended already
                os.kill(cls._running._process, signal.SIGKILL)
                os.waitpid(cls._running._process, 0)
            cls._running._orders.close()
            cls._running = None

    def fork(self, environment: dict[str, str]) -> socket.socket:
        """Request a worker, and return the connection on which `how_it_ended` waits for its end."""
        connection, theirs = socket.socketpair()
        with contextlib.suppress(ConnectionError):  # the server ended; `how_it_ended` reports it
            with theirs:
                socket.send_fds(self._orders, [b"w"], [theirs.fileno(), 2])
            connection.sendall(json.dumps([environment, os.getcwd(), sys.path]).encode())
            connection.shutdown(socket.SHUT_WR)
        return connection

    @classmethod
    def _is_running(cls) -> bool:
        if cls._running is None:
            return False
        try:
            return os.waitpid(cls._running._process, os.WNOHANG) == (0, 0)
        except ChildProcessError:
            return False


atexit.register(ForkServer.end)


def how_it_ended(connection: socket.socket) -> int | None:
    """Wait for the end of a worker, and return its exit status or the negative number of the signal
    that killed it. Return None if the server ended, which also drops pending requests and, on
    Linux, ends all workers.
    """
    with connection:
        try:
            status = connection.recv(16)
        except ConnectionResetError:  # the server ended before it read the request
            return None
    return int(status) if status else None


def _serve(orders: socket.socket) -> NoReturn:
    """Fork a worker for each request until the driver ends."""
    from open_diht.pipelines.runners.boot import die_with

    for number in ENDINGS:
        # Signals may reach the whole process group; the driver handles them.
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    ended, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(signalled)  # the end of a worker wakes `select`
    server = os.getpid()
    connections = dict[int, socket.socket]()
    waited_for: list[socket.socket | int] = [orders, ended]
    while True:
        ready, _, _ = select.select(waited_for, [], [])
        if ended in ready:
            os.read(ended, 4096)
            _tell_of_the_dead(connections)
        if orders not in ready:
            continue
        order, descriptors, _, _ = socket.recv_fds(orders, 1, 2)
        if not order:
            os._exit(0)
        connection = socket.socket(fileno=descriptors[0])
        errors = descriptors[1]
        worker = os.fork()
        if worker == 0:
            die_with(server)
            for inherited in (orders, *connections.values()):  # they belong to the server
                inherited.close()
            _work(connection, errors)
        connections[worker] = connection
        os.close(errors)


def _tell_of_the_dead(connections: dict[int, socket.socket]) -> None:
    while connections:
        worker, status = os.waitpid(-1, os.WNOHANG)
        if worker == 0:
            return
        with (
            connections.pop(worker) as connection,
            contextlib.suppress(OSError),
        ):
            # The driver may be gone.
            connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _work(connection: socket.socket, errors: int) -> NoReturn:
    """Run as the worker of a request until the process exits."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for output in (1, 2):  # keep what libraries print out of the command's standard output
            os.dup2(errors, output)
        with connection, connection.makefile("rb") as stream:
            environment, folder, path = json.load(stream)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:] = path
        # The out-of-memory killer should prefer workers to the driver, which can handle a dead
        # worker.
        with contextlib.suppress(OSError):  # only Linux has the file
            _OOM_SCORE.write_text(str(min(1000, int(_OOM_SCORE.read_text()) + _MORE_LIKELY)))
        from apache_beam.runners.worker import sdk_worker_main

        sdk_worker_main.main(sys.argv)
        status = 0
    except Exception:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(status)  # a regular exit would spend seconds on tearing down modules


def main() -> NoReturn:
    """Run the server as a separate process: standard input is the socket, the arguments are modules
    to import."""
    modules, sys.argv[1:] = sys.argv[1:], []  # they are not for the workers
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    _serve(socket.socket(fileno=os.dup(0)))


if __name__ == "__main__":
    main()
