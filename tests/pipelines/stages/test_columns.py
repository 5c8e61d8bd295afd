"""Stage `columns`: the manifest's own columns decide before anything is parsed, and are asked
once."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.datasets import load_dataset
from tests.pipelines.conftest import tar_of

Filter = Callable[..., Any]
WORDS = ["captions", "export"]
CAPTIONS = [
    "a brown dog runs",
    "two cats sleep on a red sofa",
    "a man rides a white horse",
    "SALE NOW",
]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    n = 40
    rows = {
        "n": range(n),
        "caption": [CAPTIONS[i % 4] for i in range(n)],
        "url": [f"http://127.0.0.1/{i}" for i in range(n)],
        "punsafe": [None if i == 7 else i / n for i in range(n)],
        "language": ["en" if i % 5 else "fr" for i in range(n)],
    }
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({name: list(values) for name, values in rows.items()}), path)
    return path


@pytest.mark.parametrize("form", ["jsonl", "tar"])
def test_fractions_after_a_thousand_whole_numbers_are_compared(
    form: str, tmp_path: Path, filtering: Filter
) -> None:
    values: list[Any] = [0] * 1_000 + [0.1, 0.9, None, "0.1", 10**400]
    rows = [
        {"n": n, "caption": "A dog runs", "url": "http://127.0.0.1/", "nsfw": v}
        for n, v in enumerate(values)
    ]
    if form == "jsonl":
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        tar_of(
            tmp_path / "rows.tar",
            [(f"{row['n']:05d}.json", json.dumps(row).encode()) for row in rows],
        )
    preset = "columns: {nsfw: {max: 0.5}}"
    run = filtering(tmp_path / f"rows.{form}", tmp_path / "out", preset=preset, stages=WORDS)
    rejected = {row["n"] for row in run.rows("rejected") if row["reason"] == "nsfw"}
    assert rejected == {1001, 1002, 1003, 1004}  # text is no number in a column of numbers


@pytest.mark.parametrize(
    "extra", [pa.nulls(2), pa.array([{"a": 1}, None]), pa.array([1, 2]), pa.array(["x", "{}"])]
)
def test_a_column_of_the_users_named_extra_is_no_obstacle(
    extra: pa.Array, tmp_path: Path, filtering: Filter
) -> None:
    table = pa.table(
        {"caption": CAPTIONS[:2], "url": ["a", "b"], "similarity": [0.4, None], "_extra": extra}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    preset = "columns: {similarity: {min: 0.3}}"
    run = filtering(tmp_path / "rows.parquet", tmp_path / "out", preset=preset, stages=WORDS)
    assert run.status == 0 and [row["reason"] for row in run.rows("rejected")] == ["similarity"]


BOTH = "columns: {unsafe: {max: 0.5, missing: keep}, language: {in: [en]}}"


def test_rows_are_rejected_by_the_first_column_before_the_parse(manifest, tmp_path, filtering):
    run = filtering(manifest, tmp_path / "out", preset=BOTH, stages=WORDS, unit_rows=15)
    verdicts = run.verdicts()
    for n in range(40):
        if n / 40 > 0.5 and n != 7:
            assert verdicts[n] == "unsafe"
        elif n % 5 == 0:
            assert verdicts[n] == "language"
        else:
            assert verdicts[n] == ("complexity" if n % 4 == 3 else "kept")
    rejected = {row["n"]: row for row in run.rows("rejected")}
    assert {row["stage"] for row in rejected.values()} == {"columns", "captions"}
    assert rejected[0]["complexity"] is None and rejected[0]["actions"] is None, "it was not parsed"
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    assert [step["reason"] for step in funnel["steps"]][:3] == ["unsafe", "language", "no_caption"]
    assert sum(funnel["histograms"]["column:unsafe"].values()) == 40
    assert funnel["unparsed"] == 0, "no lean run"
    report = (tmp_path / "out" / "report.html").read_text()
    assert "The value of unsafe is above 0.5" in report and 'class="h-mark"' in report


@pytest.mark.parametrize(
    "then", ["columns: {unsafe: {max: 0.2}}", "columns: {punsafe: {max: 0.9}}", "captions: {}"]
)
def test_other_thresholds_give_what_a_run_with_them_alone_gives(
    manifest, tmp_path, filtering, then
):
    first = BOTH
    filtering(manifest, tmp_path / "out", preset=first, stages=WORDS)
    changed = filtering(manifest, tmp_path / "out", preset=then, stages=WORDS)
    fresh = filtering(manifest, tmp_path / "fresh", preset=then, stages=WORDS)
    assert changed.tables() == fresh.tables()


def test_stricter_thresholds_need_no_parse_and_looser_ones_say_that_they_do(
    manifest, tmp_path, filtering
):
    output = tmp_path / "out"
    filtering(manifest, output, preset="columns: {unsafe: {max: 0.5}}", stages=WORDS)
    stricter = filtering(manifest, output, preset="columns: {unsafe: {max: 0.4}}", stages=WORDS)
    assert any("without parsing" in line for line in stricter.said)
    looser = filtering(manifest, output, preset="columns: {unsafe: {max: 0.6}}", stages=WORDS)
    assert any(
        "the conditions on columns did not pass all of these rows" in line for line in looser.said
    )


def test_images_are_asked_for_what_columns_let_through(
    tmp_path: Path, filtering: Filter, with_images: Filter
) -> None:
    rows = [{**row, "score": row["n"] / 10} for row in with_images(tmp_path / "images", 10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    preset = "columns: {score: {min: 0.5}}"
    run = filtering(tmp_path / "rows.parquet", tmp_path / "out", preset=preset, stages=["spotting"])
    assert {run.verdicts()[n] for n in range(5)} == {"score"}
    (record,) = (tmp_path / "out" / "work" / "spotting" / "commits").glob("*.json")
    assert json.loads(record.read_text())["images"] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "columns: {watermark: {max: 1}}",
            "no column or role 'watermark', which a condition of the preset needs",
        ),
        ("columns: {unsaf: {max: 1}}", "did you mean 'punsafe'"),
        (
            "columns: {image_not_available: {max: 1}}",
            "image_not_available is the reason of two filters",
        ),
        (
            "columns: {tags: {in: [a]}}",
            "column 'tags' is list<.*>, which columns.tags of the preset cannot compare",
        ),
    ],
)
def test_a_condition_that_no_row_can_be_asked_is_refused_before_anything_is_written(
    manifest, tmp_path, filtering, text, message
):
    table = pq.read_table(manifest)
    pq.write_table(table.append_column("tags", pa.array([["a"]] * table.num_rows)), manifest)
    with pytest.raises(WrongUse, match=message):
        filtering(manifest, tmp_path / "out", preset=text, stages=WORDS)
    assert not (tmp_path / "out").exists()


def test_sizes_that_a_data_set_swaps_are_compared_as_they_are_meant(
    tmp_path: Path, filtering: Filter
) -> None:
    table = pa.table(
        {
            "n": [0, 1],
            "TEXT": CAPTIONS[:2],
            "URL": ["a", "b"],
            "WIDTH": [100, 300],
            "HEIGHT": [300, 100],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    preset = "columns: {width: {min: 200}}"
    run = filtering(
        tmp_path / "rows.parquet",
        tmp_path / "out",
        preset=preset,
        stages=WORDS,
        dataset=load_dataset("laion2b"),
    )
    assert run.verdicts() == {0: "kept", 1: "width"}


def test_rows_that_pass_by_other_values_of_a_column_are_parsed_and_their_images_read(
    tmp_path, filtering, with_images, tsv, ocr_models
):
    """As after a change of how a column is read."""
    rows = [
        {**row, "width": 200 + 200 * (n % 2), "height": 400 - 200 * (n % 2)}
        for n, row in enumerate(with_images(tmp_path / "images", 6))
    ]
    path = tsv(tmp_path / "rows.tsv", rows)
    preset = "columns: {width: {min: 300}}"

    def run(swap: bool, output: str) -> Any:
        dataset = dataclasses.replace(load_dataset("custom"), swap_size=swap)
        stages = ("captions", "spotting")
        done = filtering(path, tmp_path / output, preset=preset, stages=stages, dataset=dataset)
        assert done.status == 0 and done.rows("kept")
        return done.tables()

    first = run(False, "out")
    assert run(True, "out") == run(True, "fresh") != first
    assert run(False, "out") == first


def test_a_language_that_the_manifest_does_not_say_is_identified(
    tmp_path: Path, filtering: Filter
) -> None:
    captions = [*CAPTIONS[:2], "Ein brauner Hund rennt durch den Schnee", "1234"]
    pq.write_table(
        pa.table({"n": range(4), "caption": captions, "url": list("abcd")}),
        tmp_path / "rows.parquet",
    )
    text = (
        "columns: {language: {in: [en], missing: keep}, language_score: {min: 0.5, missing: keep}}"
    )
    run = filtering(tmp_path / "rows.parquet", tmp_path / "out", preset=text, stages=WORDS)
    assert run.verdicts() == {0: "kept", 1: "kept", 2: "language", 3: "complexity"}
    models = json.loads((tmp_path / "out" / "run.json").read_text())["models"]
    assert models["columns"]["language"].startswith("pycld2 ")
