"""What a person sees while a stage runs: rows done of how many, rate, time left."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

EVERY_S = 1.0
EVERY_ON_A_PIPE_S = 10.0


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


def beats(folder: Path) -> list[tuple[int, int]]:
    """Of the units now running that have said it: rows done, and how many there are."""
    found = []
    for path in folder.glob("*"):
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


class Progress:
    """A line that is kept up to date while the `with` block runs."""

    def __init__(self, stage: str, count: Callable[[], Count], noun: str = "rows", out: TextIO | None = None):
        self._stage, self._count, self._noun = stage, count, noun
        self._out = out or _terminal()
        self._tty = self._out.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            seconds = time.monotonic() - self._began
            self._print(end_line(self._stage, self._count().done, self._noun, seconds), last=True)
        elif self._tty:
            self._out.write("\n")

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S if self._tty else EVERY_ON_A_PIPE_S):
            seconds = time.monotonic() - self._began
            self._print(running_line(self._stage, self._count(), self._noun, seconds))

    def _print(self, line: str, last: bool = False) -> None:
        if self._tty:
            self._out.write(f"\r\x1b[K{line}" + ("\n" if last else ""))
        else:
            self._out.write(line + "\n")
        self._out.flush()


def running_line(stage: str, count: Count, noun: str, seconds: float) -> str:
    """What is said of a stage that runs. It is never done: there are units to commit when all rows are."""
    rate = count.done / seconds
    said, left = f"{stage:<9} {count.done:>12,}", "-"
    if count.total:
        total = max(count.total, count.done)
        share = min(99, 100 * count.done // total)
        said += f" of {'' if count.exact else 'about '}{total:,} {noun} ({share} %)"
        left = _clock(max(1.0, (total - count.done) / rate)) if rate else "-"
    else:
        said += f" {noun}"
    return f"{said}  {rate:,.0f}/s  ETA {left}"


def end_line(stage: str, done: int, noun: str, seconds: float) -> str:
    """What is said of a stage that has ended."""
    return f"{stage:<9} {done:>12,} {noun} in {_clock(seconds)}, {done / seconds if seconds else 0:,.0f}/s"


def _terminal() -> TextIO:
    """Standard error of its own, so that the line still shows while the workers' output goes to a file."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8")
    except io.UnsupportedOperation:  # no file behind it, as in some test runners
        return sys.stderr


def _clock(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"
