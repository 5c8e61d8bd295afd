"""Daemons that a script starts on this machine, and ends without touching anybody else's. Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

STOP_SECONDS = 30.0


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
