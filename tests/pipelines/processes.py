"""Starting the command as people do or in a fork, killing it, and leaving nothing of it running."""

import contextlib
import functools
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import apache_beam.runners.worker.sdk_worker_main  # noqa: F401  # that forks have it
import psutil

import open_diht.pipelines.driver.cli  # noqa: F401
from tests.forks import Forks

REPOSITORY = Path(__file__).resolve().parents[2]
_MARK = "FILTERS_TEST_KILL"
captured = functools.partial(subprocess.run, capture_output=True, text=True, check=False)


def command(words: list[str], folder: str, said: str, errors: str) -> None:
    """`python -m open_diht.pipelines` with these words, in a folder. Runs in a process of its
    own."""
    enter(folder, said, errors)
    sys.argv = ["pipelines", *words]
    runpy.run_module("open_diht.pipelines", run_name="__main__")


def enter(folder: str, said: str, errors: str) -> None:
    """Begin a session of its own in a folder, with output and errors in files."""
    os.setsid()
    os.chdir(folder)
    sys.path.insert(0, folder)
    for descriptor, path in ((1, said), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


COMMAND = (__file__, "command")


class Forked:
    """The command in a fork, with the methods of `Popen` that tests need."""

    def __init__(
        self,
        forks: Forks,
        words: list[str],
        folder: Path,
        said: Path,
        errors: Path,
        program: tuple[str, str] = COMMAND,
    ):
        self._forks = forks
        self._said = said
        self.returncode: int | None = None
        arguments = (words, str(folder), str(said), str(errors))
        self.pid = forks.start(*program, *arguments, said=errors, **os.environ)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.poll(self.pid)
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = self._forks.wait(self.pid)
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        self.wait()
        return self._said.read_text(encoding="utf-8"), ""

    def clear(self) -> None:
        """Kill what is left of it. Its workers are of its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()


def words_for(manifest: Path, output: Path, *more: str, workers: int) -> list[str]:
    """Of a run over one manifest with small units."""
    words = ["--dataset", "custom", "--input", str(manifest), "--output", str(output)]
    return [*words, "--unit-rows", "25", "--workers", str(workers), *more]


class ForkedStarter:
    program = COMMAND
    """File and function of what the forks do."""

    def __init__(self, forks: Forks, folder: Path):
        self._forks = forks
        self._folder = folder
        self._started: list[Forked] = []

    def start(self, manifest: Path, output: Path, *more: str, workers: int = 2) -> Forked:
        said = self._folder / f"said-{len(self._started)}.txt"
        words = self.words(manifest, output, *more, workers=workers)
        self._started.append(Forked(self._forks, words, REPOSITORY, said, said, self.program))
        return self._started[-1]

    def words(self, manifest: Path, output: Path, *more: str, workers: int) -> list[str]:
        return words_for(manifest, output, *more, workers=workers)

    def finish(self, manifest: Path, output: Path, *more: str, workers: int = 2) -> str:
        """A run to its end, which must be good. Returns what it said."""
        said, _ = (process := self.start(manifest, output, *more, workers=workers)).communicate()
        assert process.returncode == 0, said
        return said

    def left(self) -> list[int]:
        """Processes of their sessions that live, workers included."""
        sessions = {process.pid for process in self._started}
        found = []
        for process in psutil.process_iter(["status"]):
            with contextlib.suppress(OSError):
                if (
                    process.info["status"] != psutil.STATUS_ZOMBIE
                    and os.getsid(process.pid) in sessions
                ):
                    found.append(process.pid)
        return found

    def close(self) -> None:
        for process in self._started:
            process.clear()


class Starter:
    def __init__(self, mark: str):
        self._mark = mark
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, manifest: Path, output: Path, *more: str, workers: int = 2
    ) -> subprocess.Popen[str]:
        arguments = words_for(manifest, output, *more, workers=workers)
        process = subprocess.Popen(
            [sys.executable, "-m", "open_diht.pipelines", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), _MARK: self._mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """Kill what is left, workers included, by process id."""
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        for process_id in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)

    def left(self) -> list[int]:
        wanted = f"{_MARK}={self._mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found


def committed(output: Path, stage: str) -> int:
    return sum(1 for _ in output.glob(f"work/{stage}/commits/[!.]*.json"))


def kill_at(process: Forked, output: Path, stage: str, commits: int, delay: float) -> bool:
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
