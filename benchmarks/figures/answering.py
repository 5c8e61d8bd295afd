"""The process of one side of a figure: it answers one JSON line for each that it reads.

Interpreters of peers run it too, so it needs only the standard library.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any


def peak_mib() -> float:
    """Return the peak memory of this process (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) / 1024


def serve(target: str, function: str, given: dict[str, Any], without: Sequence[str]) -> None:
    """Answer the lines of standard input. What libraries print goes to standard error.

    Args:
        target: a module's name, or the path of a Python file.
        function: a name in it. It returns `answer`, or `(answer, clock, peak)` where the CPU
            seconds and peak MiB are not those of this process alone.
        given: arguments of the function.
        without: packages that cannot be imported, as if they were not installed.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.modules.update(dict.fromkeys(without))  # type: ignore[arg-type] # None: imports fail
    names = runpy.run_path(target) if target.endswith(".py") else vars(import_module(target))
    made = names[function](**given)
    answer, clock, peak = made if isinstance(made, tuple) else (made, time.process_time, peak_mib)
    for line in sys.stdin:
        question = json.loads(line)
        wall = time.perf_counter()
        cpu = clock()
        value = answer(question)
        cost = [clock() - cpu, time.perf_counter() - wall, peak()]
        print(json.dumps([value, *cost], default=str), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:])
