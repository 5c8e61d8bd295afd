"""What is said while a stage runs: never that all is done while it is not."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from pipelines.engine import progress
from pipelines.engine.progress import Count, Heartbeat, Progress, beats, running_line


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (Count(45, 187), "45 of 187 pictures (24 %)  5/s  ETA 0:28"),
        (Count(45, 187, exact=False), "45 of about 187 pictures (24 %)  5/s  ETA 0:28"),
        (Count(186, 187), "186 of 187 pictures (99 %)  21/s  ETA 0:01"),
        (Count(187, 187), "187 of 187 pictures (99 %)  21/s  ETA 0:01"),
        (Count(190, 187, exact=False), "190 of about 190 pictures (99 %)  21/s  ETA 0:01"),
        (Count(0, 187), "0 of 187 pictures (0 %)  0/s  ETA -"),
        (Count(45), "45 pictures  5/s  ETA -"),
        (Count(0, 0), "0 pictures  0/s  ETA -"),
    ],
)
def test_a_stage_that_runs_is_never_done(count: Count, said: str) -> None:
    assert " ".join(running_line("spotting", count, "pictures", 9.0).split()) == " ".join(f"spotting {said}".split())


def test_a_heartbeat_says_how_much_there_is_from_the_first_moment(tmp_path: Path) -> None:
    heartbeat, other = Heartbeat(tmp_path / "a"), Heartbeat(tmp_path / "b")
    (tmp_path / "c").touch()  # the mark of a unit that has not said anything
    heartbeat.expect(300)
    other.beat(7)
    assert sorted(beats(tmp_path)) == [(0, 300), (7, 7)]
    other.end()
    assert beats(tmp_path) == [(0, 300)]


def test_on_a_pipe_lines_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress.EVERY_ON_A_PIPE_S == 10
    monkeypatch.setattr(progress, "EVERY_ON_A_PIPE_S", 0.2)
    out = io.StringIO()
    with Progress("captions", lambda: Count(5, 10), "rows", out):
        time.sleep(0.5)
    lines = out.getvalue().splitlines()
    assert 2 <= len(lines) <= 4 and "\r" not in out.getvalue()
    assert "5 of 10 rows (50 %)" in lines[0] and "5 rows in 0:0" in lines[-1]
