"""What is said while work goes on: never that all is done while it is not."""

import errno
import io
from typing import Any
from unittest.mock import Mock

import pytest

from open_diht.common import progress
from open_diht.common.progress import ProgressBar, duration, running


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars show what they have at every step, and not each second or ten."""
    assert (progress.EVERY_S, progress.EVERY_ON_A_PIPE_S) == (1, 10)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    monkeypatch.setattr(progress, "EVERY_ON_A_PIPE_S", 0.0)


@pytest.mark.parametrize(
    ("done", "total", "more", "said"),
    [
        (45, 187, {}, "45 of 187 images (24 %)  5/s  ETA 0:28"),
        (45, 187, {"exact": False}, "45 of about 187 images (24 %)  5/s  ETA 0:28"),
        (45, 187, {"before": 36}, "45 of 187 images (24 %)  1/s  ETA 2:22"),
        (186, 187, {}, "186 of 187 images (99 %)  21/s  ETA 0:01"),
        (187, 187, {}, "187 of 187 images (100 %)  21/s  ETA 0:01"),
        (0, 187, {}, "0 of 187 images (0 %)  0/s  ETA -"),
        (45, None, {}, "45 images  5/s  ETA -"),
        (0, 0, {}, "0 images  0/s  ETA -"),
    ],
)
def test_work_that_goes_on_is_never_done(
    done: int, total: int | None, more: dict[str, Any], said: str
) -> None:
    assert running(done, total, "images", 9.0, **more).strip() == said


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]


def test_a_log_gets_plain_lines_and_the_last_one() -> None:
    out = io.StringIO()
    bar = ProgressBar(desc="captions", unit="rows", out=out)
    bar.move(1_200, 5_000, exact=False)
    bar.move(6_000, 5_000, exact=False)
    bar.finish(6_000)
    first, second, last = [line for line in out.getvalue().splitlines() if line.split()[1] != "0"]
    assert "\r" not in out.getvalue()
    assert first.startswith("captions         1,200 of about 5,000 rows (24 %)  ")
    assert "6,000 of about 6,000 rows (99 %)" in second and " 6,000 rows in 0:00, " in last


def test_a_terminal_gets_one_bar_that_goes_with_the_work() -> None:
    out = Terminal()
    assert list(ProgressBar(range(4), desc="targets", unit="shards", out=out)) == [0, 1, 2, 3]
    drawn = out.getvalue().split("\r")
    assert "\n" not in out.getvalue() and not drawn[-1].strip()
    assert any("|########        |" in text and "2 of 4 shards (50 %)" in text for text in drawn)


def test_work_that_takes_a_moment_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 1.0)
    out = Terminal()
    assert list(ProgressBar(range(4), desc="targets", out=out)) == [0, 1, 2, 3]
    assert out.getvalue() == ""


def test_a_full_log_ends_no_work() -> None:
    class Full(io.StringIO):
        write = flush = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))

    bar = ProgressBar(desc="captions", unit="rows", out=Full())
    bar.move(1, 2)
    bar.finish(2)
