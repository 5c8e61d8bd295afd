"""The tables: which arms meet, and what is said of each line."""

import re
from pathlib import Path

from study.rows import Arm, Rows
from study.tables import TABLES, lines, pool_sizes
from study.words import (
    matrix,
    pool_in_words,
    separations_in_markdown,
    table_in_markdown,
    verdicts_in_words,
)
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
    chosen = Arm(
        claim="cat", pool="natural", arm="kept", budget=1000, seed=0, settings={"stage": "tuning"}
    )
    rows.write(
        chosen, {}, {name: 0 * ranks + 1 for name, ranks in rows.items(row.arm).items()}, 1.0, {}
    )
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


def test_reversals_and_nulls_are_said_in_words_with_the_size_that_would_have_shown(
    make_rows: MakeRows,
) -> None:
    make_rows({"all": 0.0, "random": 0.0, "kept": 0.3}, pool="one")
    rows = make_rows({"all": 0.0, "random": 0.3, "kept": 0.0}, pool="two")
    found = lines(rows, TABLES["cat"], "cpu")
    first, reversed_, not_shown = verdicts_in_words(found)
    assert first == "The first arm is better in 2 of 4 comparisons and is worse in 1."
    assert reversed_.startswith(
        "Reversed: kept by CAT against random of the same size, two, on photographs: rank +"
    )
    assert not_shown.startswith("Not shown: kept by CAT against all, two, on photographs: rank ")
    assert "at 1,000 samples (" in not_shown and not_shown.endswith(" would have been seen).")


def test_a_table_has_at_most_eight_columns_and_a_number_in_a_cell(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.3})
    found = lines(rows, TABLES["cat"], "cpu")
    head, rule, line = table_in_markdown(TABLES["cat"], found).splitlines()
    assert (
        head
        == "| test set | pool | samples seen | repeats | arm against arm | rank, % | low | high |"
    )
    assert rule.count("---") == head.count("|") - 1 == 8
    assert line.startswith(
        "| photographs | clean | 1,000 | 2.0 | kept by CAT \u2212 all | **\u22122"
    )
    assert re.search(r"\| \*\*\u22122\d\.\d\*\* \| \u2212\d\d\.\d \| \u2212\d\d\.\d \|$", line)
    assert "| R@10, points | low | high |" in table_in_markdown(TABLES["cat"], found, 1)


def test_a_table_may_be_of_some_test_sets_only(make_rows: MakeRows) -> None:
    rows = make_rows({"random": 0.0, "cat": 0.3, "all": 0.1}, claim="rivals")
    assert [(line.b, line.verdict) for line in lines(rows, TABLES["rivals"], "cpu")][1:] == [
        ("cat", "better")
    ]
    assert lines(rows, TABLES["reading"], "cpu") == []


def test_a_matrix_has_a_row_for_each_pair_of_arms_and_a_column_for_each_pool(
    make_rows: MakeRows,
) -> None:
    make_rows({"random": 0.0, "cat": 0.3}, claim="rivals", pool="natural")
    arms = {"random": 0.0, "cat": 0.3, "t": -0.3}
    rows = make_rows(arms, claim="rivals", pool="lettered-40")
    head, _, *body = matrix(lines(rows, TABLES["rivals"], "cpu")).splitlines()
    assert head == "| first arm against second | lettered-40 | clean |"
    assert re.fullmatch(
        r"\| T against random of the same size \| \*\*\+3\d\.\d\*\* worse \|  \|", body[0]
    )
    assert re.fullmatch(
        r"\| C, A and T against random of the same size( \| \*\*\u22122\d\.\d\*\*){2} \|", body[1]
    )
    rows = make_rows(arms, claim="rivals", pool="lettered-40", budget=5000)
    head, *_ = matrix(lines(rows, TABLES["rivals"], "cpu")).splitlines()
    assert head == "| first arm against second | samples seen | lettered-40 | clean |"


def test_pools_of_two_claims_differ_by_their_sizes() -> None:
    assert pool_in_words("natural", 17_043) == "clean 17,043"
    assert pool_in_words("natural-all", 8_522) == "clean 8,522"
    assert pool_in_words("lettered-40", 3_240) == "lettered-40 3,240"
    assert pool_in_words("usual", 17_043) == "usual", "a start, which is no pool"


def test_the_size_of_a_pool_is_that_of_all_its_pairs(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    arms = {"kept": {"pairs": 4}, "all": {"pairs": 9}, "more-infonce": {"pairs": 20}}
    for arm, notes in {**arms, "score": {"pairs": 3, "pool": 10}}.items():
        one = Arm(claim="teachers", pool="natural-all", arm=arm, budget=1000, seed=0)
        rows.write(one, {}, {}, 1.0, notes)
    chose = Arm(claim="teachers", pool="natural-all", arm="all", budget=1, seed=0,
                settings={"stage": "tuning"})  # fmt: skip
    rows.write(chose, {}, {}, 1.0, {"pairs": 30})
    assert pool_sizes(rows.read("teachers")) == {"natural-all": 10}


def test_separations_are_means_over_the_scorers(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    for seed, score in enumerate((0.8, 0.9, 0.7, 0.1)):
        # The fourth seed has the first scorer again.
        one = Arm(claim="rivals", pool="injected", arm="all", budget=1000, seed=seed)
        rows.write(
            one, {}, {}, 1.0, {"separates": {"score": score if seed < 3 else 0.8, "mix": 0.95}}
        )
    head, _, row = separations_in_markdown(rows.read("rivals")).splitlines()
    assert (
        head == "| pool | score | logistic mix | spread of score |"
        and row == "| noisy | 0.800 | 0.950 | 0.200 |"
    )
