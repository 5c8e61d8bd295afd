"""The funnel on the terminal: aligned, bounded, and complete."""

from typing import Any

import pytest

from open_diht.pipelines.driver.table import render_funnel
from open_diht.pipelines.report.funnel import FunnelRecord
from tests.pipelines import results


def funnel(**changes: Any) -> FunnelRecord:
    counts = {
        "rows_in": 1_234_567,
        "steps": [
            {"stage": "captions", "reason": "complexity", "rejected": 234_567, "left": 999_000},
            {"stage": "captions", "reason": "action", "rejected": 499_000, "left": 500_000},
            {"stage": "spotting", "reason": "text_spotting", "rejected": 100_000, "left": 400_000},
        ],
        "rejected": {"complexity": 234_567, "action": 499_000, "text_spotting": 100_000},
        "dead_letter": {
            "rows": 1_000,
            "units": 2,
            "by_error": {"truncated": 900, "empty": 100},
            "first": None,
        },
        "kept": 400_000,
    }
    return results.funnel(**{**counts, **changes})


def test_the_table_says_everything_with_separators() -> None:
    table = render_funnel(funnel())
    for text in (
        "1,234,567",
        "234,567",
        "40.4 %",
        "kept",
        "32.4 %",
        "dead letter",
        "1,000",
        "truncated: 900",
    ):
        assert text in table
    assert table.count("captions") == 1
    assert "files and units in the dead-letter table: 2" in table


def test_counts_that_do_not_add_up_are_said() -> None:
    assert "add up" not in render_funnel(funnel())
    assert "+1 rows are unaccounted for" in render_funnel(funnel(rows_in=1_234_568))


def test_rows_that_are_lost_are_a_step_where_they_are_lost() -> None:
    steps = [
        {"stage": "set aside", "reason": "not_decided", "rejected": 0, "lost": 30, "left": 70},
        {"stage": "manifest", "reason": "dead_letter", "rejected": 0, "lost": 2, "left": 68},
        {"stage": "captions", "reason": "action", "rejected": 8, "left": 60},
    ]
    dead = {"rows": 2, "units": 1, "by_error": {"NotText": 2}}
    lost = {"rows": 30, "units": 2, "uncounted": 1}
    table = render_funnel(
        funnel(
            rows_in=100,
            steps=steps,
            rejected={"action": 8},
            dead_letter=dead,
            kept=60,
            not_decided=lost,
        )
    )
    lines = [line.split("#")[0].split() for line in table.splitlines()]
    assert ["set", "aside", "not_decided", "30", "30.0", "%", "70"] in lines
    assert ["manifest", "dead_letter", "2", "2.0", "%", "68"] in lines
    assert ["not", "decided", "30.0", "%", "30"] in lines and "add up" not in table
    assert "undecided units whose rows are not counted: 1" in table


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_columns_are_aligned_and_no_line_is_too_long(width: int) -> None:
    lines = render_funnel(funnel(), width).splitlines()
    assert all(len(line) <= width for line in lines)
    end = lines[0].index("left") + len("left")
    counts = [1_234_567, 999_000, 500_000, 400_000, 400_000, 1_000]
    rows = [line for line in lines[2:9] if set(line) != {"-"}]
    for row, count in zip(rows, counts, strict=True):
        assert row[:end].endswith(f" {count:,}")
        assert row[end:].strip(" #") == ""


def test_bars_follow_what_is_left_and_vanish_in_narrow_windows() -> None:
    bars = [line.count("#") for line in render_funnel(funnel(), 120).splitlines() if "#" in line]
    assert bars == sorted(bars, reverse=True) and bars[0] > 2 * bars[-1] > 0
    assert "#" not in render_funnel(funnel(), 60)


def test_an_empty_run_has_a_table() -> None:
    table = render_funnel(funnel(rows_in=0, steps=[], kept=0))
    assert "kept" in table and "n/a" in table


def test_names_cannot_move_the_cursor_or_break_the_table() -> None:
    steps = [{"stage": "\x1b[2J", "reason": "re\nason\u202e" + "x" * 300, "rejected": 1, "left": 2}]
    table = render_funnel(
        funnel(steps=steps, dead_letter={"rows": 1, "units": 0, "by_error": {"\x1b[31m": 1}}), 80
    )
    assert table.isascii() and "\x1b" not in table
    assert all(len(line) <= 80 for line in table.splitlines())
