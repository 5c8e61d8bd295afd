"""Killed with SIGKILL at random moments and started again, features end as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SEED = random.SystemRandom().randrange(10**6)
SERVER = """
import json, os, sys
import timm, torch
from pipelines.concepts import cli
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        log = os.open(os.environ["LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        os._exit(cli.main(json.loads(line)))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Runs:
    """Runs of the command, one at a time: forks of a process that has imported everything, as that takes longest."""

    def __init__(self, words: list[str], log: Path):
        self._words, self.log = words, log
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=REPOSITORY,
            env={**os.environ, "LOG": str(log), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._pid: int | None = None

    def start(self, output: Path) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps([*self._words, "--output", str(output)]) + "\n")
        self._server.stdin.flush()
        self._pid = int(self._server.stdout.readline())

    def kill(self) -> None:
        assert self._pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def status(self) -> int:
        assert self._server.stdout
        self._pid = None
        return int(self._server.stdout.readline())

    def close(self) -> None:
        if self._pid:
            self.kill()
        self._server.kill()
        self._server.wait()


@pytest.fixture
def runs(tmp_path: Path, filtered: Any, tiny: tuple[str, str]) -> Iterator[Runs]:
    data = filtered.write([24] * 4, lambda n, m: [(m[0][0], b"<html>"), *m[1:]] if n % 30 == 7 else m)
    words = ["--data", str(data), "--teacher", tiny[0], "--weights", tiny[1], "--workers", "1", "--batch-size", "8"]
    runs = Runs(words, tmp_path / "log")
    yield runs
    runs.close()


def _done(output: Path) -> int:
    """Committed units of all stages so far, of twelve."""
    return sum(1 for _ in output.glob("work/*/commits/[!.]*.json"))


@pytest.mark.kill
@pytest.mark.slow
def test_killed_and_started_again_equals_undisturbed(tmp_path: Path, runs: Runs, made: Any) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    runs.start(undisturbed)
    assert runs.status() == 0, runs.log.read_text()
    dice, hits = random.Random(SEED), 0
    for done in (dice.randrange(0, 6), dice.randrange(6, 12)):
        runs.start(killed)
        deadline = time.monotonic() + 120
        while _done(killed) < done and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(0.1 * dice.random())
        runs.kill()
        hits += runs.status() == -signal.SIGKILL
    assert hits, SEED
    runs.start(killed)
    assert runs.status() == 0, (SEED, runs.log.read_text())
    expected = made(undisturbed)
    assert len(expected) == 4 * 3 + 1
    assert made(killed) == expected, SEED
    assert not [path for path in killed.rglob(".tmp-*")], SEED
    assert not [*(killed / "work" / "features" / "begun").glob("*")], SEED
