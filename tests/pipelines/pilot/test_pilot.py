"""The command: a sample of units, the real stages, and a forecast that holds the truth of the full
run."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.pilot.command import main
from tests.common.html_tags import Tags

pytestmark = pytest.mark.usefixtures("here")
ROWS = 3_000
GROUP = 100


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions whose rate of actions differs from row group to row group, as it does from crawl to
    crawl."""
    dice = random.Random(5)
    captions: list[str | None] = []
    for _ in range(ROWS // GROUP):
        rate = dice.betavariate(3, 3)
        for _ in range(GROUP):
            n = len(captions)
            text = (
                f"A brown dog runs on the beach {n}"
                if dice.random() < rate
                else f"Blue ceramic mug, {n} ml"
            )
            captions.append(text if dice.random() > 0.02 else None)
    path = tmp_path_factory.mktemp("pilot") / "a.parquet"
    urls = [f"https://example.org/{n}.jpg" for n in range(ROWS)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), path, row_group_size=GROUP)
    return path


def _arguments(
    manifest: Path, output: Path, *more: str, stages: str = "captions", unit: int = GROUP
) -> list[str]:
    start = [
        "--dataset",
        "custom",
        "--input",
        str(manifest),
        "--output",
        str(output),
        "--unit-rows",
        str(unit),
    ]
    return [*start, "--stages", stages, "--workers", "1", *more]


def _forecast(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "pilot" / "pilot.json").read_text())
    return content


def test_the_truth_of_the_full_run_lies_in_the_interval(manifest, tmp_path, filtering, capsys):
    full = filtering(manifest, tmp_path / "full", stages=("captions",), unit_rows=GROUP)
    arguments = _arguments(manifest, tmp_path / "out", "--units", "12")
    assert main(arguments) == 0
    said = capsys.readouterr().out
    content = _forecast(tmp_path / "out")
    assert content["whole"]["rows"] == ROWS and content["whole"]["units"] == ROWS // GROUP
    assert len(content["sample"]["units"]) == 12 and content["sample"]["rows"] == 12 * GROUP
    truth = {
        "kept": full.funnel["kept"],
        **{reason: rows for reason, rows in full.funnel["rejected"].items() if rows},
    }
    assert truth["action"] > 100 and truth["no_caption"] > 10
    for name, rows in truth.items():
        found = content["forecast"]["rows"][name]
        assert found["low"] <= rows <= found["high"], name
        assert found["high"] - found["low"] < ROWS / 2 and found["basis"] == "measured"
        assert name in said
    of_work = ("captions", "decide", "pair_keys"), ("data", "commits", "dead")
    parts = [
        tmp_path / "full" / "work" / stage / part for stage in of_work[0] for part in of_work[1]
    ]
    for place, folders in (("kept", [tmp_path / "full" / "kept"]), ("work", parts)):
        found = content["forecast"]["stored"][place]
        size = sum(p.stat().st_size for f in folders for p in f.glob("*"))
        assert found["low"] <= size <= found["high"], (place, size, found)
    hours = content["forecast"]["core_hours"]["all"]["value"]
    assert hours > 0

    # The same command again has nothing to do. A machine that was busy costs no more.
    for path in (tmp_path / "out" / "pilot" / "work" / "captions" / "commits").iterdir():
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"seconds": record["seconds"] + 1_000}))
    work = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "pilot" / "kept").iterdir()
    }
    assert main(arguments) == 0
    assert "nothing to do: " in capsys.readouterr().out
    assert _forecast(tmp_path / "out")["forecast"]["core_hours"]["all"]["value"] == pytest.approx(
        hours
    )
    assert all(path.stat().st_mtime_ns == moment for path, moment in work.items())
    assert any(
        "had no processor for 100% of their time" in note
        for note in _forecast(tmp_path / "out")["notes"]
    )

    assert main([*arguments, "--seed", "1"]) == 2
    assert "holds a pilot of other units" in capsys.readouterr().err


def test_all_units_are_the_truth_itself(manifest: Path, tmp_path: Path) -> None:
    assert main(_arguments(manifest, tmp_path / "out", "--share", "1", unit=1_000)) == 0
    content = _forecast(tmp_path / "out")
    notes = content["notes"]
    assert "fractions of its rows are exact" in notes[0] and not any(
        "interval" in note for note in notes
    )
    assert any("duplicates count as kept" in note for note in notes) and not any(
        "partners" in note for note in notes
    )
    funnel = json.loads((tmp_path / "out" / "pilot" / "funnel.json").read_text())
    kept = content["forecast"]["rows"]["kept"]
    assert [kept[end] for end in ("low", "value", "high")] == [pytest.approx(funnel["kept"])] * 3
    hours = content["forecast"]["core_hours"]["all"]
    assert [hours["low"], hours["high"]] == [pytest.approx(hours["value"])] * 2


def test_a_larger_run_is_answered_on_the_terminal_in_json_and_on_a_page(manifest, tmp_path, capsys):
    more = ["--units", "4", "--for-rows", "100_000_000", "--cores", "64", "--price", "0.5"]
    assert main(_arguments(manifest, tmp_path / "out", *more)) == 0
    content = _forecast(tmp_path / "out")
    run = content["run"]
    found = run["forecast"]["run"]
    assert (run["rows"], run["units"]) == (10**8, 10**6) and content["whole"]["rows"] == ROWS
    rates = content["forecast"]["rates"]["kept"]["value"]
    assert found["kept"]["value"] == pytest.approx(rates * 10**8)
    whole = content["forecast"]["core_hours"]["all"]["value"]
    hours = found["core_hours"]["value"]
    assert hours == pytest.approx(whole * 10**8 / ROWS)
    assert found["hours"]["value"] == pytest.approx(hours / 64)
    assert found["money"]["value"] == pytest.approx(hours / 2)
    assert found["bytes"] == run["forecast"]["stored"]["all"]
    for line in found.values():
        assert line["low"] < line["value"] < line["high"]
    said = capsys.readouterr().out
    assert "a run of 100,000,000 rows" in said and "0.5 a core-hour" in said

    page = (tmp_path / "out" / "pilot" / "pilot.html").read_text()
    tags = Tags(page)
    loading = {"src", "href", "srcset"}
    assert not tags.open and not any(loading & attributes.keys() for _, attributes in tags.tags)
    assert {tag for tag, _ in tags.tags}.isdisjoint({"script", "img", "iframe", "link"})
    begin = " ".join(tags.text.split("What it rests on")[0].split())
    assert "Of 100,000,000 rows" in begin and "on 64 cores" in begin
    kept = float(f"{found['kept']['value']:.3g}")
    assert f"{kept:,.0f} would be kept" in begin and "at 0.5 for an hour" in begin.lower()
    funnel = json.loads((tmp_path / "out" / "pilot" / "funnel.json").read_text())
    assert f"{funnel['rejected']['action']:,}" in tags.text.split("Funnel of the sample")[1]
    assert "addresses alive" not in tags.text and content["notes"][2][1:40] in tags.text


def test_without_images_it_says_what_it_does_not_know(manifest, tmp_path, capsys):
    table = pq.read_table(manifest)
    paths = pa.array([f"{row}.jpg" for row in range(len(table))])  # of files that are not there
    pq.write_table(
        table.append_column("image_path", paths), tmp_path / "a.parquet", row_group_size=100
    )
    arguments = _arguments(
        tmp_path / "a.parquet", tmp_path / "out", "--units", "2", stages="captions,spotting,export"
    )
    assert main(arguments) == 1, (
        "no row of the sample had an image; the forecast is made all the same"
    )
    assert "multiply them by what your images take" in capsys.readouterr().out
    found = _forecast(tmp_path / "out")["forecast"]
    assert (
        found["images"]["read"]["basis"] == "measured" and found["images"]["bytes"]["value"] is None
    )
    assert found["rows"]["kept"]["basis"] == found["core_hours"]["all"]["basis"] == "unknown"
    page = Tags((tmp_path / "out" / "pilot" / "pilot.html").read_text()).text
    begin = " ".join(page.split("What it rests on")[0].split())
    assert "at most" in begin and "take at least" in begin and "a rate of" not in begin


@pytest.mark.slow
def test_it_measures_what_each_effort_costs(pairs, tmp_path, ocr_models, capsys):
    more = ("--units", "3", "--ocr-effort", "medium", "--ocr-engine", "onnxruntime")
    assert (
        main(_arguments(pairs, tmp_path / "out", *more, stages="captions,spotting", unit=15)) == 0
    )
    content = _forecast(tmp_path / "out")
    said = capsys.readouterr().out
    costs = content["efforts"]
    assert 0 < costs.pop("images") <= 24 and list(costs) == ["low", "medium", "high"]
    hours = {effort: cost["core_hours"] for effort, cost in costs.items()}
    assert hours["medium"] == pytest.approx(content["forecast"]["core_hours"]["spotting"]["value"])
    assert hours["low"] / hours["high"] == pytest.approx(
        costs["low"]["seconds_per_image"] / costs["high"]["seconds_per_image"]
    )
    (own,) = [line for line in said.splitlines() if line.endswith("this run's")]
    assert own.startswith("medium")


def test_shards_share_the_sample_and_the_last_forecasts(manifest, tmp_path, capsys):
    arguments = _arguments(manifest, tmp_path / "out", "--units", "4")
    assert main([*arguments, "--shard", "0/2"]) == 0
    assert "2 units left to other shards" in capsys.readouterr().out
    assert not (tmp_path / "out" / "pilot" / "pilot.json").exists()
    assert main([*arguments, "--shard", "1/2"]) == 0
    assert len(_forecast(tmp_path / "out")["sample"]["units"]) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--units", "3", "--share", "0.5"], "give only one"),
        (["--units", "0"], "at least 1 unit"),
        (["--units", "x"], "--units: the value is 'x'; it must be a whole number"),
        (["--share", "2"], "--share is 2.0; it must be above 0"),
        (["--share", "nan"], "--share: the value is nan; it must be a number"),
        (["--shard", "2/2"], "is not i/n"),
        (["--for-rows", "0"], "--for-rows: the value is 0;"),
        (["--for-rows", "1_000_000_000_000_001"], "the value is 1_000_000_000_000_001;"),
        (["--for-rows", "many"], "--for-rows: the value is 'many'; it must be a whole number"),
        (["--cores", "-1"], "--cores: the value is -1; it must be at least 1"),
        (["--cores", "0.5"], "--cores: the value is '0.5'; it must be a whole number"),
        (["--price", "0"], "--price: the value is 0; it must be above 0"),
        (["--price", "nan"], "--price: the value is nan; it must be a number"),
        (["--price", "1e400"], "--price: the value is 1e400; it must be above 0 and at most"),
        (["--price", "1_000_000.5"], "--price: the value is 1_000_000.5; it must be"),
        (["--units", "4", "--for-rows", "399"], "give at least as many, draw fewer with --units"),
    ],
)
def test_wrong_use_writes_nothing(more, message, manifest, tmp_path, capsys):
    assert main(_arguments(manifest, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
