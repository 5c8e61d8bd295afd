"""Progress of running work on standard error: a tqdm bar on a terminal, plain lines elsewhere."""

import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO

from tqdm import tqdm

from open_diht.common.command_line import QUIET

# A terminal overwrites its line; in a pipe each line stays, so there are fewer.
EVERY_S = 1.0
EVERY_ON_A_PIPE_S = 10.0


class ProgressBar(tqdm):
    """A progress bar such as `captions |████ | 1,200 of about 5,000 rows (24 %) 40/s ETA 1:35`. On
    a terminal it disappears when the work ends, unless `finish` leaves a last line. `update` and
    iteration show nothing before the first interval, but `move` shows the bar at once."""

    monitor_interval = 0  # no monitor thread that redraws the bar more often
    # The lock of tqdm is shared with forks; one killed while holding it would block all.
    _lock = threading.RLock()

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
        """Create a bar over `work`, or for `update` or `move`, without showing it. `out` replaces
        standard error."""
        self.exact = True
        out = out or sys.stderr
        terminal = out.isatty()
        disable = disable or QUIET in os.environ
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
        self.mininterval = every  # a disabled bar of tqdm has none

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that `bar_format` may name."""
        known: dict[str, Any] = super().format_dict
        done = known["n"]
        before = known["initial"]
        seconds = known["elapsed"]
        return {
            **known,
            "running": running(
                done, known["total"], known["unit"], seconds, before=before, exact=self.exact
            ),
            "ended": (
                f"{done:>12,} {known['unit']} in {duration(seconds)},"
                f" {_rate(done - before, seconds):,.0f}/s"
            ),
        }

    def move(self, done: int, total: int | None, *, exact: bool = True) -> None:
        """Show a new state. A `total` of None or 0 is unknown, and a `total` below `done` is raised
        to `done`."""
        # An estimated total may be too small.
        self.n = done
        self.total = total and max(done, total)
        self.exact = exact
        self.refresh()

    def finish(self, done: int) -> None:
        """Close the bar and leave a last line with the count, the time taken and the rate."""
        self.n = done
        self.leave = True
        self.delay = 0.0
        self.bar_format = "{desc:<9} {ended}"
        self.close()


def _has_width(out: TextIO) -> bool:
    """Return whether the stream is a terminal with a known width. At width 0 tqdm would cut the
    whole bar."""
    try:
        return os.get_terminal_size(out.fileno()).columns > 0
    except OSError:
        return False


class _Lines:
    """A stream that prints tqdm's redraws as separate lines, for output that is not a terminal."""

    def __init__(self, out: TextIO):
        self._out = out

    def write(self, text: str) -> None:
        if line := text.strip("\r\n").rstrip():
            with suppress(OSError):
                # Standard error is full; missing progress must not end the work.
                self._out.write(line + "\n")

    def flush(self) -> None:
        with suppress(OSError):
            self._out.flush()


def running(
    done: int, total: int | None, unit: str, seconds: float, *, before: int = 0, exact: bool = True
) -> str:
    """Return the progress line of running work. A `total` of None is unknown. A total that is not
    `exact` is an estimate, for which the line never shows 100 %."""
    rate = _rate(done - before, seconds)
    of = f" {unit}" if unit else ""
    said = f"{done:>12,}"
    left = "-"
    if total:
        # 99 at most, because an estimate may grow.
        percent = min(100 if exact else 99, 100 * done // total)
        of = f" of {'' if exact else 'about '}{total:,}{of} ({percent} %)"
        left = duration(max(1.0, (total - done) / rate)) if rate else "-"
    return f"{said}{of}  {rate:,.0f}/s  ETA {left}"


def duration(seconds: float) -> str:
    """Format seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _rate(done: int, seconds: float) -> float:
    return done / seconds if seconds else 0.0
