"""Lean runs: the same rows are kept, what is not annotated is said, and a full run afterwards makes
it up."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.driver.notes import all_notes


@pytest.fixture(scope="module")
def manifest(
    tmp_path_factory: pytest.TempPathFactory, tsv: Callable[..., Path], captions: list[str]
) -> Path:
    rows = [{"n": n, "caption": caption} for n, caption in enumerate(captions)]
    return tsv(tmp_path_factory.mktemp("lean") / "captions.tsv", rows)


Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(manifest: Path, filtering: Callable[..., Any]) -> Run:
    def done(output: Path, lean: bool = False) -> Any:
        return filtering(
            manifest,
            output,
            preset="strict",
            stages=("captions", "export"),
            lean=lean,
            unit_rows=100,
        )

    return done


@pytest.fixture(scope="module")
def full(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("full") / "out")


@pytest.fixture(scope="module")
def lean(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("lean") / "out", lean=True)


def test_the_same_rows_are_kept(lean: Any, full: Any) -> None:
    assert lean.tables()["kept"] == full.tables()["kept"]
    ours = lean.verdicts()
    theirs = full.verdicts()
    assert {(ours[n], theirs[n]) for n in ours if ours[n] != theirs[n]} == {
        ("action", "complexity")
    }


def test_what_is_not_annotated_is_null_and_said(lean: Any, full: Any) -> None:
    bare = {row["n"] for row in lean.rows("rejected") if row["complexity"] is None}
    assert 20 < len(bare) == lean.funnel["unparsed"] < len(full.rows("rejected"))
    known = {row["n"]: row for row in full.rows("rejected")}
    for row in lean.rows("rejected"):
        if row["n"] in bare:
            assert (row["objects"], row["attributes"], row["actions"]) == (None, None, [])
            assert known[row["n"]]["actions"] == []
        else:
            assert row == known[row["n"]]
    assert (
        sum(lean.funnel["histograms"]["complexity"].values()) + len(bare) == lean.funnel["rows_in"]
    )
    note = next(note for note in all_notes(lean.funnel) if note.startswith("lean run"))
    assert note in lean.said and note in (lean.output / "report.html").read_text()
    assert not any(note.startswith("lean run") for note in all_notes(full.funnel))


def test_a_full_run_afterwards_annotates_anew_and_says_so(
    run: Run, lean: Any, full: Any, tmp_path: Path
) -> None:
    shutil.copytree(lean.output, tmp_path / "out")
    again = run(tmp_path / "out")
    assert again.tables() == full.tables()


def test_a_lean_run_takes_what_is_annotated_in_full(run: Run, full: Any, tmp_path: Path) -> None:
    shutil.copytree(full.output, tmp_path / "out")
    lean = run(tmp_path / "out", lean=True)
    assert not any(line.startswith("captions:") for line in lean.said)
    assert lean.tables() == full.tables()


@pytest.mark.parametrize(
    "stages", [("captions", "spotting"), ("export",), ("captions", "download", "export")]
)
def test_only_on_captions_alone(manifest, filtering, tmp_path, stages):
    with pytest.raises(WrongUse, match="captions alone"):
        filtering(manifest, tmp_path / "out", stages=stages, lean=True)
    assert not (tmp_path / "out").exists()


def test_only_where_an_action_is_asked_for(
    manifest: Path, filtering: Callable[..., Any], tmp_path: Path
) -> None:
    preset = "captions: {min_complexity: 2, min_actions: 0}"
    with pytest.raises(WrongUse, match="requires no action"):
        filtering(manifest, tmp_path / "out", preset=preset, stages=("captions",), lean=True)
