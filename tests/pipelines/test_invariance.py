"""Decisions depend on a row alone: not on batches, units, workers, the order of rows, or on who
asks."""

import json
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_diht import Cat
from open_diht.filters.columns import ColumnCondition
from open_diht.filters.presets import load_preset
from open_diht.pipelines.output import Output
from open_diht.pipelines.stages import captions as caption_stage
from open_diht.pipelines.stages import decide as decide_stage
from open_diht.pipelines.stages.image_records import decided_rows
from open_diht.pipelines.stages.segments import WantedRows
from open_diht.pipelines.store.layout import image_unit_name
from open_diht.pipelines.verify.command import verify
from open_diht.pipelines.verify.options import parse
from open_diht.pipelines.view.controls import as_yaml
from open_diht.pipelines.view.thresholds import decide, draw

ROWS = 80


def _write(path: Path, texts: list[str | None], order: list[int], group: int) -> Path:
    table = pa.table({"n": order, "caption": pa.array([texts[n] for n in order], pa.string())})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.fixture(scope="module")
def texts(captions: list[str]) -> list[str | None]:
    """Sample captions, repeats and captions that say nothing."""
    return [*captions[: ROWS - 6], captions[0], captions[1], None, "", "nan", "x" * 5_000]


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory, filtering) -> dict[int, dict[str, Any]]:
    """All rows as one unit, in order: everything that is said of each."""
    folder = tmp_path_factory.mktemp("whole")
    source = _write(folder / "a.parquet", texts, list(range(ROWS)), ROWS)
    return _said_of_rows(filtering(source, folder / "out", stages=("captions",)))


def _said_of_rows(result: Any) -> dict[int, dict[str, Any]]:
    rows = [
        {"reason": "kept", "stage": None, **row}
        for kind in ("kept", "rejected")
        for row in result.rows(kind)
    ]
    assert Counter(row["n"] for row in rows).most_common(1)[0][1] == 1
    return {row["n"]: row for row in rows}


@pytest.mark.slow
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.sampled_from([1, 3, 7, 50, 2_000]),
    unit=st.integers(5, 90),
    group=st.integers(5, 90),
    seed=st.integers(0, 2**16),
)
def test_batches_units_and_order(batch, unit, group, seed, texts, whole, filtering):
    order = list(range(ROWS))
    random.Random(seed).shuffle(order)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(caption_stage, "BATCH_ROWS", batch)
        patch.setattr(decide_stage, "BATCH_ROWS", batch)
        source = _write(Path(folder) / "a.parquet", texts, order, group)
        result = filtering(source, Path(folder) / "out", stages=("captions",), unit_rows=unit)
        assert _said_of_rows(result) == whole


@pytest.mark.parametrize("seed", range(3))
def test_all_who_ask_decide_as_a_run_does(seed, texts, tmp_path, filtering):
    dice = random.Random(seed)
    least = dice.choice([None, 10.0, 70.0])
    paper = load_preset("paper")
    rule = replace(
        paper.captions,
        min_complexity=dice.randrange(4),
        min_actions=dice.randrange(3),
        min_action_score=dice.choice([0.0, 0.5, 0.9]),
        max_chars=dice.choice([40, 4_096]),
    )
    columns = () if least is None else (ColumnCondition(reason="n", min=least),)
    preset = replace(paper, captions=rule, columns=columns, foresee=())
    numbers = list(range(ROWS))
    source = _write(tmp_path / "a.parquet", texts, numbers, ROWS)
    result = filtering(
        source,
        tmp_path / "out",
        preset=as_yaml(preset),
        stages=("captions",),
        unit_rows=ROWS // 2,
    )
    written = result.verdicts()
    output = Output(result.output)
    of_cat = Cat(preset)(texts, columns={"n": numbers} if columns else None).reason
    assert {n: reason or "kept" for n, reason in enumerate(of_cat)} == written
    units = output.plan.units
    viewed = decide(output, draw(output), preset).reasons
    for first, unit, in_view in zip((0, ROWS // 2), units, viewed, strict=True):
        expected = [written[first + n] for n in range(ROWS // 2)]
        assert [reason or "kept" for reason in in_view] == expected
        wanted = WantedRows(preset, True, annotations="")
        asked = image_unit_name(unit.name, 0)
        assert wanted.ordinals(output.layout, asked, ROWS).tolist() == [
            n for n, reason in enumerate(expected) if reason == "kept"
        ]
        groups = decided_rows(output.layout, unit.name, [], preset, output.stages)
        reasons = [reason for _, decisions in groups for reason in decisions.reasons]
        assert [reason or "kept" for reason in reasons] == expected
    found = verify(output.layout.root, parse([str(result.output)]))
    assert not found.differences and found.sampled == ROWS


def test_one_file_or_many(texts, whole, tmp_path, filtering):
    (tmp_path / "in").mkdir()
    for part in range(4):
        _write(tmp_path / "in" / f"{part}.parquet", texts, list(range(part, ROWS, 4)), 50)
    assert (
        _said_of_rows(filtering(tmp_path / "in", tmp_path / "out", stages=("captions",))) == whole
    )


@pytest.mark.slow
def test_workers_and_units_with_images(pairs, paper, tmp_path, filtering):
    """`paper` was made by one worker in four units."""
    two = filtering(pairs, tmp_path / "out", workers=2, unit_rows=23)
    assert two.tables() == paper.tables()
    assert (two.output / "subset.npy").read_bytes() == (paper.output / "subset.npy").read_bytes()


def _funnel(output: Path) -> dict[str, Any]:
    """Return what funnel.json says, without the times that the stages took and what the file was
    made of."""
    said: dict[str, Any] = json.loads((output / "funnel.json").read_text())
    return {
        name: value
        for name, value in said.items()
        if name not in ("seconds", "fingerprint", "files", "hashes")
    }


def test_funnel_does_not_depend_on_which_images_earlier_runs_read(
    tmp_path, filtering, with_images, tsv, ocr_models
):
    source = tsv(tmp_path / "pairs.tsv", with_images(tmp_path / "images", 12))
    filtering(source, tmp_path / "walk", stages=("spotting",))
    for number, stages in enumerate([("captions", "spotting"), ("captions", "dedup")]):
        filtering(source, tmp_path / "walk", stages=stages)
        filtering(source, tmp_path / f"fresh{number}", stages=stages)
        assert _funnel(tmp_path / "walk") == _funnel(tmp_path / f"fresh{number}"), stages


def test_funnel_does_not_depend_on_units_that_failed_before(tmp_path, filtering, monkeypatch):
    source = _write(tmp_path / "a.parquet", [f"A dog {n}" for n in range(70)], list(range(70)), 10)
    process = caption_stage.CaptionStage.process

    def fails_at_the_last(self: Any, unit: str, *more: Any) -> Any:
        if unit.endswith("-00006"):
            raise OSError("a disk that fails")
        return process(self, unit, *more)

    with monkeypatch.context() as patch:
        patch.setattr(caption_stage.CaptionStage, "process", fails_at_the_last)
        failed = filtering(source, tmp_path / "out", stages=("captions",), unit_rows=10)
        assert failed.funnel["not_decided"]["units"] == 1
    filtering(source, tmp_path / "out", stages=("captions",), unit_rows=10)
    filtering(source, tmp_path / "fresh", stages=("captions",), unit_rows=10)
    assert _funnel(tmp_path / "out") == _funnel(tmp_path / "fresh")
