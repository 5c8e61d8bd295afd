"""The tables: which arms meet, and what is said of each line."""

from __future__ import annotations

import re

from open_diht.study.rows import Arm
from open_diht.study.tables import TABLES, lines
from open_diht.study.words import table_in_markdown, verdicts_in_words
from tests.study.conftest import MakeRows


def test_every_pool_and_budget_has_its_lines(make_rows: MakeRows) -> None:
    make_rows({"all": 0.0, "random": -0.3, "kept": 0.3}, budget=1000)
    rows = make_rows({"all": 0.0, "kept": -0.3}, budget=5000, repeats=10.0)
    found = lines(rows, TABLES["cat"], "cpu")
    assert [(line.budget, line.b, line.a, line.verdict) for line in found] == [
        (1000, "kept", "all", "better"),
        (5000, "kept", "all", "worse"),
        (1000, "kept", "random", "better"),
    ]
    assert [line.repeats for line in found] == [2.0, 10.0, 2.0]


def test_rows_that_chose_something_are_in_no_table(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.3})
    before = lines(rows, TABLES["cat"], "cpu")
    [row] = [row for row in rows.read("cat") if (row.arm.arm, row.arm.seed) == ("kept", 0)]
    chosen = Arm(claim="cat", pool="natural", arm="kept", budget=1000, seed=0, settings={"stage": "tuning"})
    rows.write(chosen, {}, {name: 0 * ranks + 1 for name, ranks in rows.items(row.arm).items()}, 1.0, {})
    assert lines(rows, TABLES["cat"], "cpu") == before


def test_tracks_are_never_compared(make_rows: MakeRows) -> None:
    make_rows({"all": 0.0, "kept": 0.3})
    rows = make_rows({"kept": -0.3}, track="gpu")
    assert lines(rows, TABLES["cat"], "gpu") == []
    rows = make_rows({"all": 0.0}, track="gpu")
    assert [line.verdict for line in lines(rows, TABLES["cat"], "gpu")] == ["worse"]
    assert [line.verdict for line in lines(rows, TABLES["cat"], "cpu")] == ["better"]


def test_zero_shot_meets_every_draw(make_hits: MakeRows) -> None:
    rows = make_hits({"zero-shot": 0.4, "random-init": 0.5, "probe": 0.7})
    found = lines(rows, TABLES["fewshot"], "cpu")
    assert [(line.b, line.a, line.found[0].seeds, line.verdict) for line in found] == [
        ("probe", "random-init", 5, "better"),
        ("probe", "zero-shot", 5, "better"),
    ]


def test_reversals_and_nulls_are_said_in_words_with_the_size_that_would_have_shown(make_rows: MakeRows) -> None:
    make_rows({"all": 0.0, "random": 0.0, "kept": 0.3}, pool="one")
    rows = make_rows({"all": 0.0, "random": 0.3, "kept": 0.0}, pool="two")
    found = lines(rows, TABLES["cat"], "cpu")
    first, reversed_, not_shown = verdicts_in_words(found)
    assert first == "In 2 of 4 comparisons the first arm is better."
    assert reversed_.startswith("Reversed: kept by CAT against random of the same size, two, on flickr8k-test: rank +")
    assert not_shown.startswith("Not shown: kept by CAT against all, two, on flickr8k-test: rank ")
    assert "at 1,000 samples (" in not_shown and not_shown.endswith(" would have been seen).")


def test_a_line_reads_from_a_to_b(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.3})
    head, rule, line = table_in_markdown(TABLES["cat"], lines(rows, TABLES["cat"], "cpu")).splitlines()
    assert head == (
        "| test set | pool | samples seen | repeats | arm against arm | seeds | rank, and change "
        "| R@10, and change | called |"
    )
    assert rule.count("---") == head.count("|") - 1
    assert line.startswith("| flickr8k-test | natural | 1,000 | 2.0 | kept by CAT \u2212 all | 5 | ")
    assert re.search(
        r"\| \d\d\.\d \u2192 \d\d\.\d: \*\*\u22122\d\.\d %\*\* \[\u2212\d\d\.\d, \u2212\d\d\.\d\] \|", line
    )
    assert line.endswith("| yes |")
