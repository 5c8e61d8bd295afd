"""Killed with SIGKILL at random moments and started again, features end as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import timm  # noqa: F401  # that forks have it
import torch  # noqa: F401

from open_diht.pipelines.concepts import cli
from open_diht.pipelines.runners import Direct
from tests.forks import Forks
from tests.pipelines.conftest import Here

SEED = random.SystemRandom().randrange(10**6)


def make_targets(words: list[str]) -> None:
    """The command, which does its units itself: a worker would take seconds to import torch. Runs in a process of its
    own."""
    with patch.object(Direct, "run", Here.run):
        raise SystemExit(cli.main(words))


class Runs:
    """Runs of the command, one at a time."""

    def __init__(self, words: list[str], forks: Forks, log: Path):
        self._words, self._forks, self.log = words, forks, log
        self._process: int | None = None

    def start(self, output: Path) -> None:
        words = [*self._words, "--output", str(output)]
        self._process = self._forks.start(__file__, "make_targets", words, said=self.log)

    def kill(self) -> None:
        assert self._process
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)

    def status(self) -> int:
        assert self._process
        process, self._process = self._process, None
        return self._forks.wait(process)

    def close(self) -> None:
        if self._process:
            self.kill()
            self.status()


@pytest.fixture
def runs(tmp_path: Path, forks: Forks, filtered: Any, tiny: tuple[str, str]) -> Iterator[Runs]:
    data = filtered.write([24] * 4, lambda n, m: [(m[0][0], b"<html>"), *m[1:]] if n % 30 == 7 else m)
    words = ["--data", str(data), "--teacher", tiny[0], "--weights", tiny[1], "--workers", "1", "--batch-size", "8"]
    with contextlib.closing(Runs(words, forks, tmp_path / "log")) as runs:
        yield runs


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
