"""Killed with SIGKILL at random moments and started again, features end as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
MARK = "CONCEPTS_TEST_KILL"
SEED = random.SystemRandom().randrange(10**6)
Start = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, filtered: Any, tiny: tuple[str, str]) -> Iterator[Start]:
    """Starts the command; at the end whatever it left running is killed, by process id."""
    data = filtered.write([40] * 6, lambda n, m: [(m[0][0], b"<html>"), *m[1:]] if n % 50 == 7 else m)
    started: list[subprocess.Popen[str]] = []

    def run(output: Path) -> subprocess.Popen[str]:
        words = ["--data", str(data), "--output", str(output), "--teacher", tiny[0], "--weights", tiny[1]]
        words += ["--workers", "2", "--batch-size", "8"]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "pipelines.concepts", *words],
                cwd=REPOSITORY,
                env={**os.environ, MARK: str(tmp_path), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={tmp_path}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def _done(output: Path) -> int:
    """Parts and committed units so far; a committed unit counts for its five parts."""
    work = output / "work" / "features"
    return sum(1 for _ in work.glob("parts/[!.]*.npz")) + 5 * sum(1 for _ in work.glob("commits/[!.]*.json"))


def _kill_at(process: subprocess.Popen[str], output: Path, done: int, delay: float) -> bool:
    while _done(output) < done:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_and_started_again_equals_undisturbed(tmp_path: Path, start: Start, made: Any) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    first = start(undisturbed)
    said, _ = first.communicate()
    assert first.returncode == 0, said
    dice = random.Random(SEED)
    hits = [
        _kill_at(start(killed), killed, done, 0.1 * dice.random())
        for done in (0, dice.randrange(1, 8), dice.randrange(8, 16), dice.randrange(16, 28))
    ]
    assert sum(hits) >= 3, (SEED, hits)
    last = start(killed)
    said, _ = last.communicate()
    assert last.returncode == 0, (SEED, said)
    expected = made(undisturbed)
    assert len(expected) == 6 * 3 + 1
    assert made(killed) == expected, SEED
    assert not [path for path in killed.rglob(".tmp-*")], SEED
    assert not [*(killed / "work" / "features" / "parts").glob("*")], SEED
