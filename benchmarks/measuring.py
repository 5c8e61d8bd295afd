"""Common parts of the benchmarks: command lines, sides that take turns, separate processes, peak
memory and tables."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from open_diht.common.cpu_time import cpu_seconds
from open_diht.common.run_command import ONE_THREAD


def parser_of(module: str, doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring as written."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def in_turn(
    sides: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    warm: bool = False,
) -> dict[str, list[float]]:
    """Run the sides in turn, so that other work on the machine slows all, and return the seconds of
    each run, by side. `time.process_time` as the clock excludes other processes. With `warm`, each
    side runs once before, outside the clock."""
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
    """Return the lowest, median and highest ratio of a run to the anchor's run in the same
    round."""
    # Per round, so that slow moments of the machine cancel.
    each = [value / known for value, known in zip(values, anchor, strict=True)]
    return [min(each), statistics.median(each), max(each)]


def apart(*words: object, given: str = "", **environment: str) -> str:
    """Run `python` in a separate process whose numeric libraries use one thread, and return its
    output."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        input=given,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **ONE_THREAD, **environment},
    )
    return done.stdout


def cpu_of_all() -> float:
    """Return the CPU seconds of this process and of all that work for it."""
    return cpu_seconds(child.pid for child in psutil.Process().children(recursive=True))


def start_peak() -> None:
    """Reset the peak memory of this process (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_mib(field: str = "VmHWM", process: int | str = "self") -> float:
    """Return the peak (VmHWM) or present (VmRSS) memory of a process in MiB (Linux). A child's peak
    by `getrusage` would begin with its parent's."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) / 1024


def processor() -> str:
    """Return the processor's name and its vector features among five that matter here (Linux,
    x86)."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    facts = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    return (
        f"{facts['model name']}:"
        f" {', '.join(flag for flag in wanted if flag in facts['flags'].split())}"
    )


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table, row by row as they come."""
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)
