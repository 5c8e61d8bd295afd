"""Starting the command as people do, killing it, and making sure nothing of it is left running."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_MARK = "FILTERS_TEST_KILL"


class Starter:
    """Starts `python -m pipelines` on one manifest with small units."""

    def __init__(self, mark: str):
        self._mark = mark
        self._started: list[subprocess.Popen[str]] = []

    def start(self, manifest: Path, output: Path, *more: str, workers: int = 2) -> subprocess.Popen[str]:
        arguments = ["--dataset", "custom", "--input", str(manifest), "--output", str(output)]
        arguments += ["--unit-rows", "25", "--workers", str(workers), *more]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), _MARK: self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def finish(self, manifest: Path, output: Path, *more: str) -> str:
        """A run to its end, which must be good. Returns what it said."""
        process = self.start(manifest, output, *more)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        return said

    def clear(self) -> None:
        """Kill what is left, workers included, by process id."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        for process_id in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)

    def left(self) -> list[int]:
        """The processes that are there, workers included."""
        wanted, found = f"{_MARK}={self._mark}".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found


@contextmanager
def starter(mark: str) -> Iterator[Starter]:
    """A `Starter` that clears up behind itself."""
    made = Starter(mark)
    try:
        yield made
    finally:
        made.clear()


def committed(output: Path, stage: str) -> int:
    """Units of a stage that are done."""
    return sum(1 for _ in (output / "work" / stage / "commits").glob("[!.]*.json"))


def kill_at(process: subprocess.Popen[str], output: Path, stage: str, commits: int, delay: float) -> bool:
    """Kill the driver `delay` seconds after a stage has so many commits. False: it ended before."""
    while committed(output, stage) < commits:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True
