"""What a person sees while a stage runs: rows done, rate, time left."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TextIO

EVERY_S = 1.0  # on a terminal; elsewhere a line every ten seconds


class Heartbeat:
    """Written by a running unit: how many rows it has done. Cheap, not flushed to disk, lost in a crash."""

    def __init__(self, path: Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._written = 0.0

    def beat(self, rows: int) -> None:
        """Say that `rows` are done."""
        now = time.monotonic()
        if now - self._written > EVERY_S:
            self._path.write_text(str(rows), encoding="ascii")
            self._written = now

    def end(self) -> None:
        """The unit is committed; its record counts from now on."""
        self._path.unlink(missing_ok=True)


def beats(folder: Path) -> int:
    """Rows done by the units now running."""
    total = 0
    for path in folder.glob("*"):
        try:
            total += int(path.read_text(encoding="ascii") or 0)
        except (FileNotFoundError, ValueError):  # its unit has just ended, or is just writing
            continue
    return total


class Progress:
    """A line that is kept up to date while the `with` block runs."""

    def __init__(self, stage: str, total: int, done: Callable[[], int], noun: str = "rows", out: TextIO | None = None):
        self._stage, self._total, self._done, self._noun = stage, max(total, 1), done, noun
        self._out = out or _terminal()
        self._tty = self._out.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self._began, self._first = time.monotonic(), self._done()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        seconds = time.monotonic() - self._began
        if kind is None:
            done = self._done()
            rate = (done - self._first) / seconds if seconds else 0
            self._print(f"{self._stage:<9} {done:>12,} {self._noun} in {_clock(seconds)}, {rate:,.0f}/s", last=True)
        elif self._tty:
            self._out.write("\n")

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S if self._tty else 10.0):
            done = min(self._done(), self._total)
            seconds = time.monotonic() - self._began
            rate = (done - self._first) / seconds
            left = _clock((self._total - done) / rate) if rate > 0 else "-"
            share = done / self._total
            self._print(
                f"{self._stage:<9} {done:>12,} of {self._total:,} {self._noun} ({share:.0%})  {rate:,.0f}/s  ETA {left}"
            )

    def _print(self, line: str, last: bool = False) -> None:
        if self._tty:
            self._out.write(f"\r\x1b[K{line}" + ("\n" if last else ""))
        else:
            self._out.write(line + "\n")
        self._out.flush()


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
