"""Evaluate a model while training (`check.tasks`) by running `python -m open_diht.eval` in a
process of its own.

An unknown task is an error at the start of the training. Later failures of that process are
reported and logged.
"""

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

_PAUSE_S = 1.0  # between polls of the process; ranks wait for each other only this long
_OF_LAUNCHERS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "ROLE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_COMMAND = (sys.executable, "-m", "open_diht.eval")
RESULTS = "results.json"
REPORT = "report.html"
LOG = "log.txt"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    values: dict[str, float]
    """Values by `tasks/<task>/<metric>`, with `_low` and `_high` if there is an interval."""
    lines: list[str]
    """Lines to report: one for each result, and one for a failure."""
    failed: str = ""
    """The reason why the evaluation failed. It is empty after success."""


def require_tasks(tasks: str) -> None:
    """Raise `WrongUse` if a task is unknown or the evaluation cannot start, without reading data or
    loading a model."""
    done = subprocess.run(
        [*_COMMAND, "--tasks", tasks, "--power"],
        env=_alone(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise WrongUse(f"check.tasks {tasks}: {_last_line(done.stderr)}")


def evaluate(
    tasks: str,
    model: Path,
    output: Path,
    *,
    device: torch.device,
    ranks: Ranks,
    asked_to_stop: Callable[[], bool],
) -> Evaluated | None:
    """Evaluate an exported model, without few-shot, on the first rank while the others wait. All
    ranks call this. A stop request on any of them ends the evaluation. Cached features of the model
    are deleted afterwards. Return None after a stop request, and on all ranks but the first."""
    process = _start(tasks, model, output, device) if ranks.first else None
    try:
        while True:
            code = None if process is None else _ended(process)
            running = ranks.share(process is None or code is None)
            stopped = ranks.any(asked_to_stop())
            if stopped:
                return None
            if not running:
                return None if process is None else _read(output, code or 0)
    finally:
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its workers too
                process.wait()
            # No other checkpoint can use these features (named by open_diht.eval.features). Hashes
            # of data stay.
            for path in (output.parent / "cache").glob("[0-9a-f]" * 32):
                shutil.rmtree(path, ignore_errors=True)


def _start(tasks: str, model: Path, output: Path, device: torch.device) -> subprocess.Popen[bytes]:
    if device.type == "cuda":
        torch.cuda.empty_cache()  # frees what the training does not use at the moment
    output.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, REPORT):
        (output / name).unlink(missing_ok=True)  # left by an earlier try
    words = (
        "--model",
        str(model),
        "--tasks",
        tasks,
        "--output",
        str(output),
        "--device",
        device.type,
        "--shots",
        "0",
    )
    with open(output / LOG, "wb") as log:
        return subprocess.Popen(
            [*_COMMAND, *words, "--cache", str(output.parent / "cache")],
            env=_alone(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # a Ctrl-C reaches only the training, which then ends this process
            start_new_session=True,
        )


def _alone() -> dict[str, str]:
    """Return the environment without a launcher's variables, for a process that is not a rank of
    this run."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_LAUNCHERS and not name.startswith("TORCHELASTIC_")
    }


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for at most `_PAUSE_S` and return the exit status. Return None if the process still
    runs."""
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
    # Results are written task by task, and status 1 also means that a task has no data, so neither
    # shows that the evaluation finished. It writes its report at the end.
    failed = rows is None or code not in (0, 1) or not (output / REPORT).exists()
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
        return (
            f"{row['task']}: not measured: {row['protocol'].get('missing', 'no reason is given')}"
        )
    interval = "" if row["low"] is None else f" ({row['low']:.1%} to {row['high']:.1%})"
    data = row.get("protocol", {}).get("training_data", "unknown")
    return (
        f"{row['task']}, n {row['n']:,}: {row['metric']} {row['value']:.1%}{interval}; training"
        f" data {data}"
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else "no output"
