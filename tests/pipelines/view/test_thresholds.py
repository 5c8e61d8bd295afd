"""What the page says that thresholds would keep is what a run keeps with them."""

import json
import shutil
from dataclasses import replace

import pytest

from open_diht.common.fields import BadValue
from open_diht.filters.presets import Preset, load_preset, preset_names, recorded_preset
from open_diht.filters.score import ScoreRule
from open_diht.pipelines.output import Output
from open_diht.pipelines.view.controls import as_yaml, controls_of, moved
from open_diht.pipelines.view.thresholds import decide, draw

MOVES = {
    "captions": {"captions.min_complexity": "2", "captions.min_action_score": "0.5"},
    "less text": {"text_spotting.min_chars": "2", "text_spotting.min_score": "0.5"},
    "other text": {
        "text_spotting.whole_words": "1",
        "text_spotting.unit": "joined",
        "images.min_side": "65",
    },
    "everything": {
        "captions.min_complexity": "0",
        "captions.min_actions": "0",
        "text_spotting.min_chars": "100",
    },
}


def preset_of(output: Output, moves: dict[str, str]) -> Preset:
    sample = draw(output)
    return moved(output.preset, moves, controls_of(output.preset, sample))


@pytest.mark.parametrize("moves", MOVES.values(), ids=MOVES)
def test_it_is_what_a_run_keeps(moves, output, finished, manifest, copied, filtering):
    preset = preset_of(output, moves)
    found = decide(output, draw(output), preset)
    file = copied.parent / "mine.yaml"
    file.write_text(as_yaml(preset))
    done = filtering(manifest, copied, preset=str(file), unit_rows=12)
    real = {reason: count for reason, count in done.funnel["rejected"].items() if count}
    if found.uncertain:
        assert moves == MOVES["everything"], "only rows that no run has looked at are left open"
        assert found.kept_rows <= done.funnel["kept"] <= found.kept_rows + found.uncertain
    else:
        assert found.kept_rows == done.funnel["kept"]
        assert {
            reason: count for reason, count in found.rejected.items() if reason != "dead_letter"
        } == real
        assert found.rejected["dead_letter"] == done.funnel["dead_letter"]["rows"]


@pytest.mark.parametrize("stages", [("captions",), ("spotting", "dedup")])
def test_stages_that_are_not_asked_for_decide_nothing(stages, manifest, copied, filtering):
    done = filtering(manifest, copied, stages=stages, unit_rows=12)
    output = Output(copied)
    assert output.stages == stages
    found = decide(output, draw(output), output.preset)
    assert (found.kept_rows, found.uncertain) == (done.funnel["kept"], 0)
    assert found.rejected == {
        reason: count for reason, count in done.funnel["rejected"].items() if count
    }


def test_units_with_images_are_certain_beside_units_that_are_downloaded(
    manifest, copied, filtering
):
    done = filtering(manifest, copied, stages=("captions",), unit_rows=12)
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**record, "stages": ["captions", "download"]}))
    output = Output(copied)
    found = decide(output, draw(output), output.preset)
    assert (found.kept_rows, found.uncertain) == (done.funnel["kept"], 0)


@pytest.mark.parametrize("later", ["score", "stage_of_the_user", "score that only measures"])
def test_rows_that_pass_only_now_are_uncertain_where_a_later_stage_has_not_seen_them(later, copied):
    without = Output(copied)
    preset = preset_of(without, {"text_spotting.min_chars": "100"})
    as_run, looser = (decide(without, draw(without), one) for one in (without.preset, preset))
    new = sum(int((now & ~was).sum()) for now, was in zip(looser.kept, as_run.kept, strict=True))
    assert new == looser.kept_rows - as_run.kept_rows > 0 and looser.uncertain == 0
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(
        json.dumps({**record, "stages": [*record["stages"], later.partition(" ")[0]]})
    )
    output = Output(copied)
    if later == "score":
        output.preset = replace(output.preset, score=ScoreRule(min=0.1))
    found = decide(output, draw(output), preset)
    expected = (
        (looser.kept_rows, 0) if later == "score that only measures" else (as_run.kept_rows, new)
    )
    assert (found.kept_rows, found.uncertain) == expected
    assert decide(output, draw(output), output.preset).uncertain == 0


def test_every_row_is_kept_rejected_or_left_open(output: Output) -> None:
    sample = draw(output)
    for moves in MOVES.values():
        found = decide(output, sample, preset_of(output, moves))
        assert found.kept_rows + found.uncertain + found.rejected.total() == sample.rows


def test_duplicates_stay_where_they_are_not_looked_for_anew(output: Output) -> None:
    """In a sample the first of a pair may be missing; a row that the run called its duplicate stays
    one."""
    sample = draw(output)
    part = replace(sample, pieces=sample.pieces[-1:], whole=False)
    found = decide(output, part, output.preset)
    assert found.rejected["duplicate_pair"] > 0
    alone = replace(part, whole=True)
    assert decide(output, alone, output.preset).rejected["duplicate_pair"] == 0


def test_a_sample_is_random_of_a_size_and_says_how_sure_it_is(output, finished, monkeypatch):
    monkeypatch.setattr("open_diht.pipelines.view.thresholds.PIECES", 10)
    samples = [draw(output, rows=30, seed=seed) for seed in (1, 1, 2)]
    first = samples[0]
    assert not first.whole and first.rows == 30 and first.all_rows == finished.funnel["rows_in"]
    rows = [
        [(one.unit, *one.rows["ordinal"].to_pylist()) for one in sample.pieces]
        for sample in samples
    ]
    assert rows[0] == rows[1] != rows[2]
    share = decide(output, first, output.preset).share
    assert share.low is not None and share.high is not None
    assert share.low < share.value < share.high
    assert share.low < finished.funnel["kept"] / finished.funnel["rows_in"] < share.high
    whole = decide(output, draw(output), output.preset).share
    assert whole.low == whole.value == whole.high


@pytest.mark.parametrize("rows", [1, 7])
def test_a_sample_of_fewer_rows_than_pieces_has_them(rows: int, output: Output) -> None:
    assert draw(output, rows=rows).rows == rows


def test_time_bounds_a_sample(output: Output) -> None:
    assert len(draw(output, rows=40, seconds=0.0).pieces) == 1


def test_units_that_are_not_decided_are_part_of_it(copied):
    for record in list((copied / "work/decide/commits").glob("*.json"))[1:]:
        record.unlink()
    running = Output(copied)
    sample = draw(Output(copied))
    found = decide(running, sample, running.preset)
    assert sample.whole and found.kept_rows > 0 and found.uncertain == 0
    for folder in ("data", "commits"):
        shutil.rmtree(copied / "work/spotting" / folder)
    (copied / "work/spotting/commits").mkdir()
    assert decide(Output(copied), draw(Output(copied)), running.preset).uncertain > 0


def test_controls_move_what_they_name_and_refuse_what_the_preset_refuses(output: Output) -> None:
    controls = controls_of(output.preset, draw(output))
    keys = {one.key for one in controls}
    assert {"captions.min_complexity", "text_spotting.min_chars", "images.min_side"} <= keys
    assert all(one.meaning for one in controls)
    assert moved(output.preset, {}, controls) == output.preset
    assert preset_of(output, {"captions.count_relations": "0"}).captions.count_relations is False
    for wrong in (
        {"captions.min_complexity": "-1"},
        {"text_spotting.min_score": "2"},
        {"images.min_side": "wide"},
    ):
        with pytest.raises(BadValue, match=r"min_"):
            preset_of(output, wrong)


def test_the_file_of_a_preset_holds_the_preset(output, tmp_path):
    (tmp_path / "own.yaml").write_text("base: strict\ncolumns: {similarity: {min: 0.1}}\n")
    own = load_preset(str(tmp_path / "own.yaml"))
    base = next(
        found for name in preset_names() if (found := load_preset(name)).columns or found.filters
    )
    for preset in (
        preset_of(output, {"captions.min_complexity": "2"}),
        own,
        replace(base, columns=(), filters=()),
    ):
        (tmp_path / "again.yaml").write_text(as_yaml(preset))
        assert load_preset(str(tmp_path / "again.yaml")).fingerprint == preset.fingerprint
    assert recorded_preset(own.as_dict()) == own


def test_thresholds_on_columns_of_the_manifest_move_too(manifest, copied, filtering, tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("base: paper\ncolumns: {similarity: {min: 0.1}}\n")
    filtering(manifest, copied, preset=str(file), unit_rows=12)
    output = Output(copied)
    preset = preset_of(output, {"columns.similarity.min": "0.2"})
    found = decide(output, draw(output), preset)
    file.write_text(as_yaml(preset))
    done = filtering(manifest, copied, preset=str(file), unit_rows=12)
    real = (done.funnel["kept"], done.funnel["rejected"]["similarity"])
    assert (found.kept_rows, found.rejected["similarity"]) == real
