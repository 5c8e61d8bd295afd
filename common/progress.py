"""How far a piece of work is, on standard error: a bar of tqdm on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

EVERY_S = 1.0
EVERY_ON_A_PIPE_S = 10.0


class ProgressBar(tqdm):
    """`captions  |████    |  1,200 of about 5,000 rows (24 %)  40/s  ETA 1:35`; it goes when the work ends, unless
    `finish` leaves a last line. Work that takes less than a moment shows none."""

    monitor_interval = 0  # no thread that looks whether the bar should be drawn more often
    _lock = threading.RLock()  # tqdm's own is shared with forks: one that is killed while it holds it would stop all

    def __init__(
        self,
        work: Iterable[Any] | None = None,
        *,
        desc: str,
        unit: str = "",
        total: int | None = None,
        initial: int = 0,
        out: TextIO | None = None,
        disable: bool = False,
    ):
        """
        Args:
            work: what is iterated over, where the bar is not moved with `update` or `move`.
            desc: what is done.
            unit: what is counted.
            total: how many there are, where that is known and `work` does not say it.
            initial: so many of them were done before.
            out: in place of standard error.
            disable: show nothing.
        """
        self.exact = True
        out = out or sys.stderr
        terminal = out.isatty()
        every = EVERY_S if terminal else EVERY_ON_A_PIPE_S
        super().__init__(
            work,
            desc=desc,
            unit=unit,
            total=total,
            initial=initial,
            file=out if terminal else _Lines(out),
            disable=disable,
            mininterval=every,
            delay=every,
            miniters=1,
            dynamic_ncols=_has_width(out),
            leave=False,
            bar_format="{desc:<9} |{bar:16}| {running}" if terminal else "{desc:<9} {running}",
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """What `bar_format` may name."""
        known: dict[str, Any] = super().format_dict
        done, before, seconds = known["n"], known["initial"], known["elapsed"]
        return {
            **known,
            "running": running(done, known["total"], known["unit"], seconds, before=before, exact=self.exact),
            "ended": f"{done:>12,} {known['unit']} in {duration(seconds)}, {_rate(done - before, seconds):,.0f}/s",
        }

    def move(self, done: int, total: int | None, *, exact: bool = True) -> None:
        """Show that `done` are done, of `total` or, where that is not `exact`, about so many."""
        self.n, self.total, self.exact = done, total and max(done, total), exact
        self.refresh()

    def finish(self, done: int) -> None:
        """Close with a line that stays: how many there were, and how long it took."""
        self.n, self.leave, self.delay, self.bar_format = done, True, 0.0, "{desc:<9} {ended}"
        self.close()


def _has_width(out: TextIO) -> bool:
    """Whether it is a terminal that knows how wide it is; one of width 0 would show nothing of a bar that is cut."""
    try:
        return os.get_terminal_size(out.fileno()).columns > 0
    except OSError:
        return False


class _Lines:
    """What tqdm draws over and over, as lines of a stream that is no terminal."""

    def __init__(self, out: TextIO):
        self._out = out

    def write(self, text: str) -> None:
        if line := text.strip("\r\n").rstrip():
            with suppress(OSError):  # standard error is full; the work is not to end for want of its progress
                self._out.write(line + "\n")

    def flush(self) -> None:
        with suppress(OSError):
            self._out.flush()


def running(done: int, total: int | None, unit: str, seconds: float, *, before: int = 0, exact: bool = True) -> str:
    """Return the line of work that is under way."""
    rate, of = _rate(done - before, seconds), f" {unit}" if unit else ""
    said, left = f"{done:>12,}", "-"
    if total:
        of = f" of {'' if exact else 'about '}{total:,}{of} ({_percent(done, total, exact)} %)"
        left = duration(max(1.0, (total - done) / rate)) if rate else "-"
    return f"{said}{of}  {rate:,.0f}/s  ETA {left}"


def _percent(done: int, total: int, exact: bool) -> int:
    """Return 100 only where an exact total is reached: an estimate may grow."""
    return min(100 if exact else 99, 100 * done // total)


def duration(seconds: float) -> str:
    """1:02:03, 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _rate(done: int, seconds: float) -> float:
    return done / seconds if seconds else 0.0
