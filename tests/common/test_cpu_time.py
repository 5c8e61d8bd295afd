"""CPU time of helpers counts while they run and after they have ended; waiting counts nowhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from open_diht.common.cpu_time import cpu_seconds

BURN = (
    "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); sys.stdin.read()"
)
TICK = 0.01
"""The resolution of /proc."""


def test_a_helper_counts_while_it_runs_and_when_it_has_ended() -> None:
    before = cpu_seconds()
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as helper:
        assert helper.stdout is not None and helper.stdout.readline()
        with_helper = cpu_seconds([helper.pid])
        alone = cpu_seconds()
        assert with_helper - alone >= 0.3 - 2 * TICK
    assert cpu_seconds() - before >= 0.3
    assert cpu_seconds([helper.pid]) - cpu_seconds() < 0.3, "an ended one counts once"


def test_a_helper_may_end_while_its_time_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as helper:

        def read(path: Path) -> str:
            with open(path, encoding="ascii") as file:
                helper.kill()
                helper.wait()
                return file.read()

        monkeypatch.setattr(Path, "read_text", read)
        assert cpu_seconds([helper.pid]) <= cpu_seconds()
