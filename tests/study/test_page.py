"""The pages hold what the rows say, and the committed ones what the committed rows say."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from study.cli import main
from study.figures import PHOTOGRAPHS
from study.page import PAGES, render
from study.rows import CLAIMS, CPU, Rows
from study.tables import TABLES, lines
from study.words import signed
from tests.study.conftest import MakeRows

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS, DOCS = REPOSITORY / "study" / "results", REPOSITORY / "docs"


def test_the_committed_pages_and_plots_are_those_of_the_committed_rows() -> None:
    made = render(Rows(RESULTS))
    assert {*PAGES} < made.keys()
    for name, content in made.items():
        assert (DOCS / name).read_text(encoding="utf-8") == content, (
            f"docs/{name} is not what the rows give: python -m study --output study/results --page docs"
        )
    drawn = {f"images/{path.name}" for path in (DOCS / "images").glob("study-*.svg")}
    assert drawn == {name for name in made if name.endswith(".svg")}


def test_the_first_lines_say_what_the_committed_rows_show() -> None:
    rows = Rows(RESULTS)
    cat = [line for line in lines(rows, TABLES["cat"], CPU) if line.items == PHOTOGRAPHS and line.b == "kept"]
    against = {
        a: [(line.repeats or 0, line.found[0].difference) for line in cat if line.a == a] for a in ("random", "all")
    }
    assert all(change < 0 for _, change in against["random"])
    assert all(change < 0 for repeats, change in against["all"] if repeats < 5)
    assert all(change > 0 for repeats, change in against["all"] if repeats > 6)
    negatives = [line for line in lines(rows, TABLES["negatives"], CPU) if line.items == PHOTOGRAPHS]
    changes = {pool: [one.found[0].difference for one in negatives if one.pool == pool] for pool in ("tuned", "usual")}
    assert max(changes["tuned"]) < 0 and max(changes["usual"]) > 100
    first = (DOCS / "study.md").read_text(encoding="utf-8").partition("This page is made")[0]
    for start in (
        *against.values(),
        [(0.0, one) for one in changes["tuned"]],
        [(0.0, one) for one in changes["usual"]],
    ):
        ends = [change for _, change in start]
        assert f"{signed(min(ends))}" in first and f"{signed(max(ends))}" in first
    figures = re.findall(r"[+\u2212]\d+\.\d", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert len(figures) >= 30 and {*figures} == {*re.findall(r"[+\u2212]\d+\.\d", first)}


def test_the_readme_marks_the_figures_that_are_not_significant() -> None:
    rows = Rows(RESULTS)
    tables = [TABLES[name] for name in ("cat", "combined", "concepts", "negatives")]
    shown = {
        (signed(line.found[0].difference), line.verdict == "open")
        for table in tables
        for line in lines(rows, table, CPU)
    }
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    figures = re.findall(r"([+\u2212]\d+\.\d)( \(n\.s\.\))?", readme)
    assert [figure for figure, marked in figures if (figure, bool(marked)) not in shown] == []
    assert sum(bool(marked) for _, marked in figures) >= 5


def test_the_committed_rows_have_their_items_and_no_others() -> None:
    rows = Rows(RESULTS)
    for claim in CLAIMS:
        packed = pq.read_table(RESULTS / f"{claim}.parquet", columns=["key"])["key"].to_pylist()
        assert {row.arm.key for row in rows.read(claim)} == set(packed)
    assert not (RESULTS / "items").exists()


def test_a_claim_with_rows_has_its_table_its_plot_and_what_is_reversed(make_rows: MakeRows) -> None:
    make_rows({"all": 0.0, "random": -0.3, "kept": 0.3}, budget=1000, repeats=1.0)
    rows = make_rows({"all": 0.0, "random": -0.3, "kept": -0.2}, budget=4000, repeats=4.0)
    made = render(rows)
    page, details = made["study.md"], made["study-details.md"]
    assert page.count("kept by CAT \u2212 all") == 2
    assert "- In 3 of 4 comparisons the first arm is better." in details
    assert re.search(r"^- Reversed: kept by CAT against all, natural, on flickr8k-test: rank \+", details, re.MULTILINE)
    assert "images/study-cat.svg" in page and made["images/study-cat.svg"].count("<circle") == 4
    assert page.count("No rows yet.") == 3 and details.count("No rows yet.") == 5
    assert "Pool `natural`, about photographs: more at 1.0, less at 4.0 repeats." in made["when-filtering-pays.md"]


def test_the_story_has_one_table_of_at_most_eight_columns_for_a_question(make_rows: MakeRows) -> None:
    make_rows({"all": 0.0, "random": -0.3, "kept": 0.3, "kept-ca": 0.2})
    rows = make_rows({"none": 0.0, "concepts": 0.3}, claim="concepts", pool="flickr8k")
    for page in (
        render(rows)["study.md"],
        (DOCS / "study.md").read_text(),
        (DOCS / "which-filter-when.md").read_text(),
    ):
        for section in page.split("\n## ")[1:]:
            heads = re.findall(r"^(\|.*)\n\| ?---", section, re.MULTILINE)
            assert len(heads) <= 1 and all(head.count("|") <= 9 for head in heads), section
            cells = re.findall(r"(?<=\| )[^|]+(?= \|)", section.partition("| ---")[2])
            assert not any(re.search(r"\d[^\d,.]+\d", cell) for cell in cells if re.match(r"[*+\u2212\d]", cell))


def rival_rows(make_rows: MakeRows, masked: float) -> Rows:
    """Four pools with text: masking is by `masked` better than T in the last two, and worse in the others."""
    arms = {"all": 0.2, "random": 0.0, "random-2": 0.0, "score": 0.1, "ca": 0.1, "ca-score": 0.3, "t": 0.0}
    for percent in (0, 20, 40, 60):
        gain = masked if percent >= 40 else -masked
        rows = make_rows({**arms, "masked": gain, "t-whole": 0.0, "masked-whole": gain},
                         claim="rivals", pool=f"lettered-{percent}")  # fmt: skip
    return rows


def test_which_filter_says_gains_reversals_and_nulls_alike(make_rows: MakeRows) -> None:
    made = render(rival_rows(make_rows, masked=0.4))
    page = " ".join(made["which-filter-when.md"].split())
    for percent, place in ((0, "Worse"), (60, "Better than as many random pairs")):
        said = page.partition(f"**Pool `lettered-{percent}`.**")[2].partition("**Pool")[0]
        assert re.search(rf"{place}: [^:]*masked score, as many as T \([+\u2212]", said), said
        assert re.search(r"Not shown: [^:]*T \([+\u2212]\d", said)
    masking = page.partition("**Masking against T at one size**:")[2].partition("- **")[0]
    signs = re.findall(r"([+\u2212])[\d.]+ % \[[^]]+\] in `lettered-(\d+)`", masking)
    assert signs == [("+", "0"), ("+", "20"), ("\u2212", "40"), ("\u2212", "60")]
    assert 'best combination in `lettered-40`** is "C and A, then score": \u22121' in page
    assert made["images/study-rivals.svg"].count("<circle") == 8


def test_a_track_has_its_own_table_and_plot(make_rows: MakeRows) -> None:
    make_rows({"all": 0.0, "kept": 0.3})
    before = render(make_rows({}))
    made = render(make_rows({"all": 0.0, "kept": -0.3}, track="gpu"))
    assert made["images/study-cat.svg"] == before["images/study-cat.svg"] != made["images/study-cat-gpu.svg"]
    cpu, _, gpu = made["study-details.md"].partition("ViT-S/16 at 112 pixels, on a GPU")
    assert "- In 1 of 1 comparisons the first arm is better." in cpu and "images/study-cat-gpu.svg" in gpu
    assert "- In 0 of 1 comparisons the first arm is better." in gpu
    assert "No GPU has run it yet" in before["study-details.md"] and "No GPU has run it yet" not in cpu
    assert made["when-filtering-pays.md"] == before["when-filtering-pays.md"]


def test_a_shorter_study_without_the_grid_of_scales_has_its_pages_all_the_same(make_rows: MakeRows) -> None:
    made = render(make_rows({"beta-0": 0.0, "beta-1": 0.3}, claim="negatives", pool="tuned"))
    assert "images/study-negatives.svg" not in made
    assert "| flickr8k-test | tuned | 1,000 | 2.0 | beta-1 \u2212 InfoNCE |" in made["study.md"]


def test_the_pages_are_written_by_the_command(make_rows: MakeRows, tmp_path: Path) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.3})
    assert main(["--output", str(rows.folder), "--page", str(tmp_path / "docs")]) == 0
    assert (tmp_path / "docs" / "study.md").read_text() == render(rows)["study.md"]
    assert (tmp_path / "docs" / "images" / "study-cat.svg").is_file()


def test_pages_of_no_results_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path), "--page", str(tmp_path / "docs")]) == 2
    assert "`make study` makes them" in capsys.readouterr().err


def test_rows_of_a_changed_tree_are_named(make_rows: MakeRows) -> None:
    rows = make_rows({"all": 0.0, "kept": 0.3})
    lines = (rows.folder / "cat.jsonl").read_text().splitlines()
    records = [json.loads(line) | {"commit": "abc"} for line in lines]
    records[0]["commit"] = "abc-dirty"
    (rows.folder / "cat.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    page = render(Rows(rows.folder))["study-details.md"]
    assert "commits `abc` `abc-dirty`; 1 of the rows" in page
