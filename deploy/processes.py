"""Start and stop clusters of daemons on this machine without touching other processes. Uses only
the standard library."""

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_SECONDS = 90.0
STOP_SECONDS = 30.0


class ClusterError(RuntimeError):
    """The command failed; the message is one line."""


class LocalCluster(ABC):
    """A cluster of daemons on this machine, with one state folder for logs, process ids and files.
    It answers on `port`. `size` is how many of `sizes` the complete cluster has."""

    name: str
    """Name of the cluster in messages."""
    sizes: str
    """Noun for what `size` counts, such as slots."""
    daemons: tuple[str, ...]
    """Names of the daemons, in the order in which they start."""

    def __init__(self, state: Path, port: int, size: int):
        self.state = state.resolve()
        self.port = port
        self.size = size
        self.log = self.state / "log"
        self._started: list[subprocess.Popen[bytes]] = []

    @abstractmethod
    def start(self) -> None:
        """Call `spawn` for each daemon. Raises ClusterError."""

    @abstractmethod
    def count(self) -> int:
        """Return how many of `sizes` the cluster has, 0 if it does not answer."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Address of the cluster."""

    def up(self) -> str:
        """Start the cluster unless it runs, and return a message. Raises ClusterError."""
        with alone(self.state):
            if len(self.running()) == len(self.daemons) and (there := self.count()):
                return f"{self.name} is already running: {self._describe(there)}"
            self._stop()  # what is left of a cluster that runs only in part, or does not answer
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    raise ClusterError(
                        f"port {self.port} is taken by another process; choose another with --port"
                    )
            self.log.mkdir(exist_ok=True)
            self.start()
            return f"{self.name} is up: {self._describe(self._await())}"

    def down(self) -> str:
        """Stop the daemons that run, and return a message. Raises ClusterError."""
        stopped = []
        if self.state.is_dir():
            with alone(self.state):
                stopped = self._stop()
        return (
            f"stopped {' and '.join(stopped)}"
            if stopped
            else f"no {self.name} runs from {self.state}"
        )

    def status(self) -> str:
        """Return a message with the size and address. Raises ClusterError if no cluster runs and
        answers."""
        there = self.count() if self.running() else 0
        if not there:
            raise ClusterError(
                f"no {self.name} runs from {self.state}; start one with `make"
                f" {self.name.lower()}-up`"
            )
        return f"{self.name} is up: {self._describe(there)}"

    def do(self, command: str) -> int:
        """Run `up`, `down` or `status`, print its message, and return the exit status."""
        try:
            print({"up": self.up, "down": self.down, "status": self.status}[command]())
        except ClusterError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    def running(self) -> dict[str, int]:
        """Return the process id of each running daemon. The command line is checked, since a stale
        file may name another process."""
        found = {}
        for daemon in self.daemons:
            file = self.state / f"{daemon}.pid"
            text = file.read_text(encoding="ascii").strip() if file.is_file() else ""
            if text.isdecimal() and f"{self.state}/" in command_line(int(text)):
                found[daemon] = int(text)
        return found

    def spawn(self, daemon: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start one of `daemons`, which outlives this process. Its output goes to a log. `command`
        must contain a path in the state folder, by which `running` recognizes it."""
        with open(self.log / f"{daemon}.log", "wb") as log:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.state / f"{daemon}.pid").write_text(f"{process.pid}\n", encoding="ascii")
        self._started.append(process)

    def _describe(self, there: int) -> str:
        return f"{there} {self.sizes}, {self.address} (logs in {self.log})"

    def _await(self) -> int:
        """Wait until the cluster has at least its full size, and return its size. Raises
        ClusterError."""
        deadline = time.monotonic() + START_SECONDS
        # `running` would fail here: a new process has no command line for a moment.
        while time.monotonic() < deadline and all(
            process.poll() is None for process in self._started
        ):
            if (there := self.count()) >= self.size:
                return there
            time.sleep(0.3)
        why = self._last_error()
        self._stop()
        raise ClusterError(
            f"{self.name} did not start with {self.size} {self.sizes}: {why} (logs in {self.log})"
        )

    def _last_error(self) -> str:
        for daemon in self.daemons:
            for line in reversed(
                (self.log / f"{daemon}.log").read_text(errors="replace").splitlines()
            ):
                if any(word in line for word in ("Error", " ERROR ", "Exception")):
                    return line.strip()[:300]
        return "its logs name no error"

    def _stop(self) -> list[str]:
        """End this cluster's processes, the last daemon first, and return the names of those that
        ran."""
        found = self.running()
        for daemon in reversed(self.daemons):
            if daemon in found:
                end(found[daemon])
            (self.state / f"{daemon}.pid").unlink(missing_ok=True)
        return [daemon for daemon in self.daemons if daemon in found]


def options_of(cluster: str, state: str, port: int) -> argparse.ArgumentParser:
    """Return the parser of a cluster's command line, with its default state folder and port."""
    parser = argparse.ArgumentParser(
        description=f"Run a {cluster} on this machine.", allow_abbrev=False
    )
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("--state", type=Path, default=Path(state), help=f"its folder ({state})")
    parser.add_argument("--port", type=int, default=port, help=f"port that it answers on ({port})")
    return parser


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """Create a state folder if needed, and hold its lock during the `with` block. Raises
    ClusterError if it cannot be written."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = open(state / "lock", "a", encoding="ascii")  # noqa: SIM115 closed below
    except OSError as error:
        raise ClusterError(
            f"the state folder {state} cannot be written ({error.strerror}); choose another with"
            " --state"
        ) from error
    with lock as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if there is no such process, or on Linux only a
    zombie."""
    if os.path.exists("/proc/self"):
        try:
            return (
                Path(f"/proc/{pid}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode("utf-8", "replace")
            )
        except OSError:
            return ""
    done = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout


def end(pid: int) -> None:
    """Send SIGTERM to a process, and SIGKILL if it still runs after `STOP_SECONDS`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if not command_line(pid):
                return
            time.sleep(0.1)
