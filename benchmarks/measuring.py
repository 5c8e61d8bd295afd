"""What the benchmarks share: command lines, sides that take turns, processes of their own, peak memory and tables."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from open_diht.common.run_command import ONE_THREAD


def parser_of(module: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows a module's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def in_turn(
    sides: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    warm: bool = False,
) -> dict[str, list[float]]:
    """Run the sides in turn, so that other work on the machine slows all of them.

    Args:
        sides: what is timed, by name.
        repeats: how often each side runs.
        clock: `time.process_time` leaves the time of other processes out.
        warm: run each side once before, outside the clock.

    Returns:
        The seconds of each run, by side.
    """
    for side in sides.values() if warm else ():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            began = clock()
            side()
            seconds[name].append(clock() - began)
    return seconds


def ratios(values: Sequence[float], anchor: Sequence[float]) -> list[float]:
    """Return (lowest, median, highest) ratio of runs of the same round."""
    each = [value / known for value, known in zip(values, anchor, strict=True)]
    return [min(each), statistics.median(each), max(each)]


def apart(*words: object, given: str = "", **environment: str) -> str:
    """Run `python` with these words in a process of one thread; return what it printed.

    Args:
        words: the arguments of Python.
        given: the standard input.
        environment: more variables.
    """
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        input=given,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **ONE_THREAD, **environment},
    )
    return done.stdout


def start_peak() -> None:
    """Let the peak memory of this process count from now on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_mib(field: str = "VmHWM", process: int | str = "self") -> float:
    """Return the peak (VmHWM) or present (VmRSS) memory of a process in MiB. A child of `getrusage` would begin with
    the peak of its parent."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table, row by row as they come."""
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)
