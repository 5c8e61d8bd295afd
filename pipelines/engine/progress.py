"""Progress of a running stage: rows done, total, rate, time left."""

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from open_diht.common.lease import LeaseLost, check_fence
from open_diht.common.progress import EVERY_S, ProgressBar
from open_diht.pipelines.store.commit import best_effort


class Heartbeat:
    """A file in which a running unit reports its rows done and expected. Unflushed, it may be lost
    in a crash, and if the disk takes no more, nothing is reported. Methods that write raise
    LeaseLost if the file is in an output folder that another run has taken."""

    def __init__(self, path: Path):
        self._path = path
        self._written = 0.0
        self._of = 0

    def expect(self, rows: int) -> None:
        """Report how many rows the unit has, as soon as that is known."""
        self._of = rows
        self._write(0)

    def beat(self, rows: int) -> None:
        """Report that `rows` are done, at most once in `EVERY_S` seconds."""
        if time.monotonic() - self._written > EVERY_S:
            self._write(rows)

    def _write(self, rows: int) -> None:
        lost: LeaseLost | None = None
        with best_effort():
            # if another run has made the folder again, the file would look like a mark of that run
            try:
                check_fence(self._path)
            except LeaseLost as error:
                lost = error
                raise
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(f"{rows} {self._of}", encoding="ascii")
        if lost is not None:
            raise lost
        self._written = time.monotonic()

    def end(self) -> None:
        """Delete the file: the unit is committed, and its commit record counts from now on."""
        with best_effort():
            check_fence(self._path)
            self._path.unlink(missing_ok=True)


def beats(folder: Path, units: Collection[str]) -> list[tuple[int, int]]:
    """Return (rows done, rows expected) of each of these units that is running and has reported in
    `folder`."""
    found = []
    for path in folder.glob("*"):
        if path.name not in units:  # of another shard, or already counted as committed
            continue
        try:
            done, of = map(int, path.read_text(encoding="ascii").split())
        except (
            FileNotFoundError,
            ValueError,
        ):
            # The unit has just ended, is writing, or has not reported.
            continue
        found.append((done, max(done, of)))  # `of` is 0 until the unit reports its size
    return found


@dataclass(frozen=True)
class Count:
    done: int
    total: int | None = None
    """Rows in all, or None while the number is unknown."""
    exact: bool = True
    """False if `total` is estimated from the units begun so far."""


_JOIN_S = 1.0
"""Seconds that a failed or stopped stage waits for a running count, since a store may not
answer."""


class StageProgress:
    """A progress bar that a thread updates while the `with` block runs."""

    def __init__(
        self, stage: str, count: Callable[[], Count], noun: str, out: TextIO | None = None
    ):
        self._count = count
        self._bar = ProgressBar(desc=stage, unit=noun, out=out or _terminal())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
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
            except Exception:
                # Keep the bar as it is until a count succeeds, as when a store answers again.
                continue
            self._bar.move(count.done, count.total, exact=count.exact)


def _terminal() -> TextIO:
    """Return a copy of standard error, so that the bar shows while the workers' output goes to a
    file. Return standard error itself if it has no file descriptor."""
    try:
        return os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8")
    except io.UnsupportedOperation:  # it has no file descriptor, as under some test runners
        return sys.stderr
