"""Which folder can be looked at, and what is known of it before its run has ended."""

import json

import pytest

from open_diht.common.command_line import WrongUse
from open_diht.filters.presets import BadPreset, load_preset
from open_diht.pipelines.output import Output
from open_diht.pipelines.store.commit import publish_json

OTHER_SHAPE = '{"annotated": 1, "rows": [], "kept": 1, "rejected": {"action": "x"}, "dead": []}'


def test_a_finished_output_says_what_its_run_was_asked_to_do(output, finished):
    assert output.preset == load_preset("paper")
    assert output.stages == tuple(finished.funnel["stages"])
    state = output.state()
    assert state.finished and state.units == state.decided == state.annotated > 2


def test_of_a_running_one_what_is_committed_is_there(copied):
    for name in ("run.json", "funnel.json", "report.html"):
        (copied / name).unlink()
    decided = sorted((copied / "work/decide/commits").glob("*.json"))
    for record in decided[1:]:
        record.unlink()
    (copied / "work/captions/commits" / decided[-1].name).unlink()
    output = Output(copied)
    listing = output.listing()
    state = output.state()
    assert listing.decided == (decided[0].stem,)
    assert set(listing.undecided) == {path.stem for path in decided[1:-1]}
    assert not state.finished and (state.decided, state.annotated) == (1, len(decided) - 1)
    assert output.funnel() is None and output.preset_from.startswith("the default")
    assert {"captions", "spotting"} <= {*output.stages}


def test_a_run_that_comes_to_its_end_is_noticed(copied, monkeypatch):
    monkeypatch.setattr("open_diht.pipelines.output._FRESH_S", 0.0)
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").unlink()
    output = Output(copied)
    assert output.preset == load_preset("paper")
    record["preset"]["captions"]["min_complexity"] = 3
    (copied / "run.json").write_text(json.dumps(record))
    output.listing()
    assert output.preset.captions.min_complexity == 3 and output.preset_from == "the run's own"


def test_a_run_whose_preset_cannot_be_read_is_refused_each_time(copied):
    record = json.loads((copied / "run.json").read_text())
    (copied / "run.json").unlink()
    output = Output(copied)
    record["preset"]["filters"] = {"shouting": {"max_proportion": 0.5}}
    (copied / "run.json").write_text(json.dumps({**record, "plugins": ["my_filters"]}))
    for _ in range(2):
        with pytest.raises(WrongUse, match="--plugin my_filters"):
            output.listing()
    with pytest.raises(WrongUse, match="--plugin my_filters"):
        Output(copied)
    assert Output(copied, "strict").preset == load_preset("strict")


def test_units_that_are_decided_again_are_another_listing(copied, monkeypatch):
    monkeypatch.setattr("open_diht.pipelines.output._FRESH_S", 0.0)
    output = Output(copied)
    before = output.listing()
    assert output.listing() == before
    path = min((copied / "work/decide/commits").glob("*.json"))
    publish_json(path, json.loads(path.read_text()))
    assert output.listing() != before and output.listing().decided == before.decided


def test_a_caption_record_of_before_it_told_how_columns_were_read_is_read(copied):
    path = min((copied / "work/captions/commits").glob("*.json"))
    record = json.loads(path.read_text())
    del record["values"]
    path.write_text(json.dumps(record))
    assert Output(copied).captions_record(path.stem) == record


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "holds no JSON"),
        ("[1]", "is not as this version of `open-diht filter` writes it; move it away"),
        ('{"a": 1}', "is not as this version of `open-diht filter` writes it; move it away"),
    ],
)
def test_a_record_that_cannot_be_used_is_one_line_that_names_it(content, said, copied):
    (copied / "run.json").write_text(content)
    with pytest.raises(WrongUse, match=rf"run\.json {said}"):
        Output(copied)


@pytest.mark.parametrize(
    ("stage", "record_of"), [("captions", Output.captions_record), ("decide", Output.decide_record)]
)
@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", OTHER_SHAPE])
def test_so_is_a_commit_record_of_somebody_else(content, stage, record_of, copied):
    path = min((copied / f"work/{stage}/commits").glob("*.json"))
    output = Output(copied)
    assert record_of(output, path.stem)
    path.write_text(content)
    with pytest.raises(
        WrongUse,
        match=rf"{path.name} is not as this version of `open-diht filter` writes it; move it away",
    ):
        record_of(output, path.stem)


def test_a_preset_on_columns_that_nobody_has_stored_is_refused(copied):
    with pytest.raises(WrongUse, match="asks for column unsafe, which no run has read"):
        Output(copied, "safe")
    with pytest.raises(BadPreset):
        Output(copied, "lenient")
