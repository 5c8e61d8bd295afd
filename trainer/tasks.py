"""The project's own evaluation of a checkpoint while training (`check.tasks`): `python -m open_diht.eval`, a process of
its own.

A task that does not exist is refused at the start. Later nothing of it ends a training: what fails is said and logged.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from open_diht.common.command_line import WrongUse
from open_diht.common.ranks import Ranks

_PAUSE_S = 1.0  # between two looks whether it has ended; ranks wait for each other that long, and never longer
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "MASTER_ADDR",
                 "MASTER_PORT")  # fmt: skip
_COMMAND = (sys.executable, "-m", "open_diht.eval")
RESULTS, LOG = "results.json", "log.txt"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The results of an evaluation."""

    values: dict[str, float]
    """`tasks/<task>/<metric>`, with `_low` and `_high` where it has an interval."""
    lines: list[str]
    """One for each task, and for a failure."""
    failed: str = ""
    """Why there are no results; empty where there are."""


def require_tasks(tasks: str) -> None:
    """Raises `WrongUse` where there is no such task, or no evaluation. Reads no data, loads no model."""
    done = subprocess.run(
        [*_COMMAND, "--tasks", tasks, "--power"], env=_alone(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise WrongUse(f"check.tasks {tasks}: {_last_line(done.stderr)}")


def evaluate(
    tasks: str, model: Path, output: Path, *, device: torch.device, ranks: Ranks, asked_to_stop: Callable[[], bool]
) -> Evaluated | None:
    """Evaluate the exported `model` on the first rank while the others wait; results lie in `output`, features of this
    model are removed. Zero-shot and retrieval, without few-shot. None on the other ranks, and where it was asked to
    stop meanwhile."""
    process = _start(tasks, model, output, device) if ranks.first else None
    try:
        while True:
            code = None if process is None else _ended(process)
            running, stopped = ranks.share(process is None or code is None), ranks.any(asked_to_stop())
            if stopped:
                return None
            if not running:
                return None if process is None else _read(output, code or 0)
    finally:
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its workers too
                process.wait()
            # No other checkpoint can use the features, whose names open_diht.eval.features gives. Hashes of data stay.
            for path in (output.parent / "cache").glob("[0-9a-f]" * 32):
                shutil.rmtree(path, ignore_errors=True)


def _start(tasks: str, model: Path, output: Path, device: torch.device) -> subprocess.Popen[bytes]:
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the training does not hold at the moment
    output.mkdir(parents=True, exist_ok=True)
    (output / RESULTS).unlink(missing_ok=True)
    words = ("--model", str(model), "--tasks", tasks, "--output", str(output), "--device", device.type, "--shots", "0")
    with open(output / LOG, "wb") as log:
        return subprocess.Popen(
            [*_COMMAND, *words, "--cache", str(output.parent / "cache")],
            env=_alone(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what stops a training stops this by way of it
        )


def _alone() -> dict[str, str]:
    """The environment, for a process that is no rank of this run."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_LAUNCHERS and not name.startswith("TORCHELASTIC_")
    }


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit status, None if it still runs after a moment."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(_PAUSE_S)
    return None


def _read(output: Path, code: int) -> Evaluated:
    log = output / LOG
    text = log.read_text(encoding="utf-8", errors="replace")
    try:
        rows = json.loads((output / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        rows = None
    # Results are written task by task, so a file of them does not show that the evaluation came to its end. Status 1
    # also means that a task has no data; an evaluation that failed ends with a line of its error.
    failed = rows is None or code not in (0, 1) or text.strip().rpartition("\n")[2].startswith("error: ")
    why = f"status {code}: {_last_line(text)}" if failed else ""
    said = [f"check.tasks failed, {why}; see {log}; the training continues"] if failed else []
    rows = rows or []
    values: dict[str, float] = {}
    for row in rows:
        name = f"tasks/{row['task']}/{row['metric']}"
        found = {name: row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
        values |= {key: value for key, value in found.items() if value is not None}
    return Evaluated(values=values, lines=[*map(_line, rows), *said], failed=why)


def _line(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return f"{row['task']}: not measured: {row['protocol'].get('missing', 'no reason is given')}"
    interval = "" if row["low"] is None else f" ({row['low']:.1%} to {row['high']:.1%})"
    return f"{row['task']}, n {row['n']:,}: {row['metric']} {row['value']:.1%}{interval}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"
