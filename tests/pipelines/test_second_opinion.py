"""Runs with a second opinion: equal to Cat, counted, explained, and refused before the first stage
without weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from open_diht import Cat
from open_diht.common.command_line import WrongUse
from open_diht.filters.captions import opinion

STAGES = ("captions", "export")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, tsv, captions) -> Path:
    rows = [{"n": n, "caption": caption} for n, caption in enumerate(captions)]
    return tsv(tmp_path_factory.mktemp("opinion") / "captions.tsv", rows)


@pytest.fixture(scope="module")
def precise(manifest, filtering, tmp_path_factory) -> Any:
    return filtering(
        manifest, tmp_path_factory.mktemp("precise") / "out", preset="precise", stages=STAGES
    )


def test_cat_decides_as_a_run_does(precise: Any, captions: list[str]) -> None:
    reasons = Cat("precise")(captions).reason
    found = precise.verdicts()
    assert found == {n: reasons[int(n)] or "kept" for n in found}
    assert len(found) == len(captions)


def test_the_run_counts_what_was_moved_and_the_report_shows_what_was_read(precise: Any) -> None:
    moves = precise.funnel["moves"]
    assert 0 < moves["asked"] < precise.funnel["rows_in"]
    assert (
        moves["raised"] > 0 < moves["lowered"]
        and 0 < moves["total"] < moves["raised"] + moves["lowered"]
    )
    (note,) = [line for line in precise.said if line.startswith("second opinion: asked about")]
    report = (precise.output / "report.html").read_text(encoding="utf-8")
    assert note in report and "second opinion, by " in report


def test_a_run_without_the_setting_asks_nothing(manifest, filtering, tmp_path):
    strict = filtering(manifest, tmp_path / "out", preset="strict", stages=STAGES)
    assert strict.funnel["moves"] == {}
    assert "second opinion" not in (strict.output / "report.html").read_text(encoding="utf-8")


def test_other_thresholds_need_no_new_parse(precise, manifest, filtering, tmp_path):
    shutil.copytree(precise.output, tmp_path / "out")
    mine = "base: precise\ncaptions: {min_action_score: 0.9}"
    again = filtering(manifest, tmp_path / "out", preset=mine, stages=STAGES)
    assert not any(line.startswith("captions:") for line in again.said)
    assert any("without parsing" in line for line in again.said)
    assert again.funnel["kept"] < precise.funnel["kept"]


def test_missing_weights_are_an_error_before_anything_is_written(
    manifest, filtering, tmp_path, monkeypatch
):
    monkeypatch.setattr(opinion, "WEIGHTS", tmp_path / opinion.WEIGHTS.name)
    with pytest.raises(
        WrongUse, match=r"preset 'precise': second_opinion: .* missing\. Restore them: "
    ) as caught:
        filtering(manifest, tmp_path / "out", preset="precise", stages=STAGES)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
