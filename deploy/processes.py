"""Daemons that a script starts on this machine, and ends without touching anybody else's. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

STOP_SECONDS = 30.0


class ClusterError(RuntimeError):
    """What was asked cannot be done; the message is one line and names the remedy."""


class LocalCluster(ABC):
    """A cluster whose daemons are on this machine, of one state folder."""

    name: str
    """What people call it."""
    state: Path

    @abstractmethod
    def up(self) -> str:
        """Start what does not run; returns what to say. Raises ClusterError."""

    @abstractmethod
    def status(self) -> str:
        """Raises ClusterError where it does not run."""

    @abstractmethod
    def _stop(self) -> list[str]:
        """End this cluster's processes; returns what was ended."""

    def down(self) -> str:
        """Stop what runs; returns what to say."""
        stopped = []
        if self.state.is_dir():
            with alone(self.state):
                stopped = self._stop()
        return f"stopped {' and '.join(stopped)}" if stopped else f"no {self.name} runs from {self.state}"

    def do(self, command: str) -> int:
        """Do `up`, `down` or `status`, and say what came of it; returns the exit status."""
        try:
            print({"up": self.up, "down": self.down, "status": self.status}[command]())
        except ClusterError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """One command at a time on a state folder, which is made where it is not there."""
    state.mkdir(parents=True, exist_ok=True)
    with open(state / "lock", "a", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def command_line(pid: int) -> str:
    """The command line of a process, empty where there is none. It tells whose a number in a stale file is."""
    proc = Path("/proc")
    if proc.joinpath("self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            return ""
    done = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout


def end(pid: int) -> None:
    """SIGTERM, and SIGKILL where that does not help in time."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if not command_line(pid):  # gone, or a zombie of a container without init
                return
            time.sleep(0.1)
