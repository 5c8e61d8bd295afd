#!/usr/bin/env python3
"""A Dask cluster on this machine: a scheduler, and worker processes of one thread each.

    python3 -m deploy.dask.cluster up      (what `make dask-up` calls) starts it, or finds it running
    python3 -m deploy.dask.cluster down    (`make dask-down`) stops it
    python3 -m deploy.dask.cluster status

Everything lies in one folder (`--state`, by default .dask): logs, process ids, the scheduler's file, the workers' own
files. Every port binds to the loopback address: whoever reaches a Dask port may run code there. Workers inherit the
environment and the folder of this command, and use its Python, which needs the extra `dask`. Exit status 0: done; 2: it
cannot be done, and one line says why.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from deploy.processes import ClusterError, LocalCluster, alone, command_line, end
from open_diht.common.installation import remedy
from open_diht.common.run_command import ONE_THREAD

DAEMONS = ("scheduler", "worker")
"""In the order in which they start. `worker` is the parent of all workers, and starts another one where one dies."""
START_SECONDS = 90.0


class Cluster(LocalCluster):
    """See `LocalCluster`."""

    name = "Dask"

    def __init__(self, state: Path, port: int, workers: int):
        self.state, self.port, self.workers = state.resolve(), port, workers
        self.address = f"tcp://127.0.0.1:{port}"
        self._file, self.log = self.state / "scheduler.json", self.state / "log"

    def up(self) -> str:
        """Start what does not run; returns what to say. Raises ClusterError."""
        if importlib.util.find_spec("distributed") is None:
            raise ClusterError(f"Dask is not installed in {sys.executable}; {remedy('dask')}")
        with alone(self.state):
            running = self.running()
            if len(running) == len(DAEMONS) and (there := self.count()):
                return f"Dask runs already: {self._describe(there)}"
            self._stop()
            self._check_port()
            self._file.unlink(missing_ok=True)
            self.log.mkdir(exist_ok=True)
            quiet = ["--no-dashboard", "--dashboard-address=127.0.0.1:0", f"--scheduler-file={self._file}"]
            scheduler = self._start("scheduler", ["--host=127.0.0.1", f"--port={self.port}", *quiet])
            own = ["--nthreads=1", f"--nworkers={self.workers}", f"--local-directory={self.state / 'tmp'}"]
            worker = self._start("worker", ["--host=127.0.0.1", *own, *quiet])
            return f"Dask is up: {self._describe(self._await([scheduler, worker]))}"

    def status(self) -> str:
        """Raises ClusterError where it does not run."""
        there = self.count() if self.running() else 0
        if not there:
            raise ClusterError(f"no Dask runs from {self.state}; start one with `make dask-up`")
        return f"Dask is up: {self._describe(there)}"

    def running(self) -> dict[str, int]:
        """Process ids by daemon, only of processes that are this cluster's: a stale file may name somebody else's."""
        found = {}
        for daemon in DAEMONS:
            file = self._pid_file(daemon)
            text = file.read_text(encoding="ascii").strip() if file.is_file() else ""
            if text.isdecimal() and str(self._file) in command_line(int(text)):
                found[daemon] = int(text)
        return found

    def count(self) -> int:
        """How many workers the scheduler knows, 0 where none answers."""
        from distributed import Client

        try:
            with Client(self.address, timeout=3.0, set_as_default=False) as client:
                return len(client.nthreads())
        except OSError:
            return 0

    def _describe(self, workers: int) -> str:
        return f"{workers} workers, {self.address} (logs in {self.log})"

    def _pid_file(self, daemon: str) -> Path:
        return self.state / f"{daemon}.pid"

    def _check_port(self) -> None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise ClusterError(f"port {self.port} is taken by somebody else; choose another with --port")

    def _start(self, daemon: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        with open(self.log / f"{daemon}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{daemon}", *arguments],
                env={**os.environ, **ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid_file(daemon).write_text(f"{process.pid}\n", encoding="ascii")
        return process

    def _await(self, started: list[subprocess.Popen[bytes]]) -> int:
        """Wait until the workers are there."""
        deadline = time.monotonic() + START_SECONDS
        # Not `running`: for a moment the system knows no command line of a process that has just begun.
        while time.monotonic() < deadline and all(process.poll() is None for process in started):
            if self._file.is_file() and self.count() >= self.workers:
                return self.workers
            time.sleep(0.3)
        why = self._last_error()
        self._stop()
        raise ClusterError(f"Dask did not come up with {self.workers} workers: {why} (logs in {self.log})")

    def _last_error(self) -> str:
        for daemon in DAEMONS:
            file = self.log / f"{daemon}.log"
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
            for line in reversed(lines):
                if "Error" in line or " ERROR " in line:
                    return line.strip()[:300]
        return "its logs name no error"

    def _stop(self) -> list[str]:
        """End this cluster's processes, the workers first; returns what was ended."""
        found = self.running()
        for daemon in reversed(DAEMONS):
            if daemon in found:
                end(found[daemon])
            self._pid_file(daemon).unlink(missing_ok=True)
        return [daemon for daemon in DAEMONS if daemon in found]


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="A Dask cluster on this machine.", allow_abbrev=False)
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("--state", type=Path, default=Path(".dask"), help="its folder (.dask)")
    parser.add_argument("--port", type=int, default=8786, help="port of the scheduler (8786)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes, each of one thread (2)")
    options = parser.parse_args()
    return Cluster(options.state, options.port, options.workers).do(options.command)


if __name__ == "__main__":
    raise SystemExit(main())
