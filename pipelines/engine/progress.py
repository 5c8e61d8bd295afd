"""What a person sees while a stage runs: rows done of how many, rate, time left."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from open_diht.common.progress import EVERY_S, ProgressBar


class Heartbeat:
    """Written by a running unit: how many rows it has done, and of how many. Cheap, not flushed to disk, lost in a
    crash."""

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._written, self._of = 0.0, 0

    def expect(self, rows: int) -> None:
        """Say how many rows there will be, as soon as that is known."""
        self._of = rows
        self._write(0)

    def beat(self, rows: int) -> None:
        """Say that `rows` are done."""
        if time.monotonic() - self._written > EVERY_S:
            self._write(rows)

    def _write(self, rows: int) -> None:
        self._path.write_text(f"{rows} {self._of}", encoding="ascii")
        self._written = time.monotonic()

    def end(self) -> None:
        """The unit is committed; its record counts from now on."""
        self._path.unlink(missing_ok=True)


def beats(folder: Path, units: Collection[str]) -> list[tuple[int, int]]:
    """Of those of the units that are now running and have said it: rows done, and how many there are."""
    found = []
    for path in folder.glob("*"):
        if path.name not in units:  # of a shard that shares the folder
            continue
        try:
            done, of = map(int, path.read_text(encoding="ascii").split())
        except (FileNotFoundError, ValueError):  # its unit has just ended, or is just writing
            continue
        found.append((done, max(done, of)))
    return found


@dataclass(frozen=True)
class Count:
    """How far a stage is."""

    done: int
    total: int | None = None
    """None while nothing is known of it."""
    exact: bool = True
    """Whether `total` is known, and not estimated from the units begun so far."""


_JOIN_S = 1.0
"""What has failed or is stopped does not wait longer for a count that is under way: a store may not answer."""


class StageProgress:
    """A bar that is kept up to date while the `with` block runs, whatever process does the work."""

    def __init__(self, stage: str, count: Callable[[], Count], noun: str, out: TextIO | None = None):
        self._count = count
        self._bar = ProgressBar(desc=stage, unit=noun, out=out or _terminal())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> StageProgress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(None if kind is None else _JOIN_S)
        if kind is None:
            self._bar.finish(self._count().done)
        else:
            self._bar.close()

    def _run(self) -> None:
        while not self._stop.wait(self._bar.mininterval):
            try:
                count = self._count()
            except Exception:  # of a store that does not answer: the bar stands still until it does
                continue
            self._bar.move(count.done, count.total, exact=count.exact)


def _terminal() -> TextIO:
    """Standard error of its own, so that the bar still shows while the workers' output goes to a file."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8")
    except io.UnsupportedOperation:  # no file behind it, as in some test runners
        return sys.stderr
