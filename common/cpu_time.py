"""CPU time of this process and of the processes that work for it."""

import contextlib
import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path


def cpu_seconds(helpers: Iterable[int] = ()) -> float:
    """Return the CPU seconds of this process, all its threads, its ended children and `helpers`,
    the ids of child processes that still run. Without /proc a helper counts only after it has
    ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_of_process, helpers))


def _of_process(process: int) -> float:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # It has ended, or ends while it is read.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
