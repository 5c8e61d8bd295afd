"""Sides of a figure in processes of their own, which take turns on the same questions, so that
other work on the machine slows all of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from benchmarks.figures import answering, peers
from benchmarks.figures.figure import Side
from open_diht.common.run_command import ONE_THREAD

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).parent / "peers"
"""Folder of the peers' programs and locks."""


class Answer(NamedTuple):
    """A side's result and its cost. Memory is the peak since the process began."""

    value: Any
    cpu_s: float
    wall_s: float
    mib: float


class Process:
    """A process that answers questions, see `answering.serve`.

    Args:
        target: a module's name, or the path of a peer's program.
        function: a name in it, which is called with `given`.
        python: the interpreter; by default that of this process.
        threads: threads of the numeric libraries.
        without: packages that it cannot import.
    """

    def __init__(
        self,
        target: str | Path,
        function: str,
        python: Path | str = sys.executable,
        threads: int = 1,
        without: Sequence[str] = (),
        **given: Any,
    ):
        self._what = f"{target} {function}"
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 # until the process ends
        # -P: our modules must not hide a peer's.
        how = ["-P", answering.__file__] if isinstance(target, Path) else ["-m", answering.__name__]
        words = [target, function, json.dumps(given, default=str), *without]
        self._process = subprocess.Popen(
            [python, *how, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={**os.environ, **dict.fromkeys(ONE_THREAD, str(threads))},
        )

    def ask(self, question: Any) -> Answer:
        """Return the answer to a question that can be written as JSON.

        Raises:
            RuntimeError: the process ended; the message has the end of its log.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question, default=str) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self._what} ended: {self._log.read()[-2000:].strip()}")
        return Answer(*json.loads(line))

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()  # the end of its input ends it
        self._log.close()


class Entrant(NamedTuple):
    """A side before it is measured, and how its process starts."""

    version: str
    settings: dict[str, Any]
    start: Callable[[], Process]


def take_turns(
    entrants: Mapping[str, Entrant], questions: Sequence[Any]
) -> dict[str, list[Answer]]:
    """Start the entrants, ask each question of all of them in turn, and return their answers."""
    with ExitStack() as stack:
        running = {name: stack.enter_context(one.start()) for name, one in entrants.items()}
        found: dict[str, list[Answer]] = {name: [] for name in entrants}
        for question in questions:
            for name, process in running.items():
                found[name].append(process.ask(question))
    return found


def sides_of(
    entrants: Mapping[str, Entrant], values: Mapping[str, Sequence[float]]
) -> tuple[Side, ...]:
    """Return the measured sides of a figure. `values` are by entrant; others are left out."""
    return tuple(
        Side(name, entrants[name].version, entrants[name].settings, list(values[name]))
        for name in values
    )


def locked(name: str, package: str) -> str:
    """Return the version of a package in the lock of some peers."""
    lock = (PROGRAMS / f"{name}.txt").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^{re.escape(package)}==(\S+)", lock, re.MULTILINE | re.IGNORECASE)
    return str(found)


def peer_python(name: str) -> Path | None:
    """Return the interpreter of an environment of peers, or None if it has not been made."""
    return peers.python_of(name) if peers.is_made(name) else None
