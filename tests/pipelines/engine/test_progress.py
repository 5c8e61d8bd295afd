"""What processes say of the units they are at, and the bar that adds it up."""

import io
import threading
import time

import pytest

from open_diht.common import progress
from open_diht.pipelines.engine.progress import Count, Heartbeat, StageProgress, beats

UNITS = {"a", "b", "c"}


def test_a_heartbeat_says_how_much_there_is_from_the_first_moment(tmp_path):
    heartbeat = Heartbeat(tmp_path / "a")
    other = Heartbeat(tmp_path / "b")
    (tmp_path / "c").touch()  # the mark of a unit that has not said anything
    heartbeat.expect(300)
    other.beat(7)
    assert sorted(beats(tmp_path, UNITS)) == [(0, 300), (7, 7)]
    other.end()
    assert beats(tmp_path, UNITS) == [(0, 300)]
    assert not beats(tmp_path, {"b"}), "what another shard is at is not ours"


def test_the_bar_follows_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_ON_A_PIPE_S", 0.2)
    out = io.StringIO()
    with StageProgress("captions", lambda: Count(5, 10), "rows", out):
        time.sleep(0.5)
    lines = out.getvalue().splitlines()
    assert 2 <= len(lines) <= 4 and "\r" not in out.getvalue()
    assert "5 of 10 rows (50 %)" in lines[0] and "5 rows in 0:0" in lines[-1]


def test_the_bar_outlives_a_count_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may not answer for a while."""
    monkeypatch.setattr(progress, "EVERY_ON_A_PIPE_S", 0.05)
    out = io.StringIO()
    fails = [ConnectionError("no answer")]
    counted = threading.Event()

    def count() -> Count:
        if fails:
            raise fails.pop()
        counted.set()
        return Count(5, 10)

    with StageProgress("captions", count, "rows", out):
        assert counted.wait(10)
    assert "5 rows in 0:0" in out.getvalue()


def test_a_stage_that_fails_leaves_no_last_line() -> None:
    out = io.StringIO()
    with (
        pytest.raises(OSError, match="no space"),
        StageProgress("captions", lambda: Count(5, 10), "rows", out),
    ):
        raise OSError("no space")
    assert out.getvalue() == ""
