"""Whole runs with scores: what is rejected, that it depends on the rows alone, and that nothing is
encoded twice."""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

for module in ("torch", "open_clip"):
    pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")

from open_diht.filters.presets import load_preset  # noqa: E402
from open_diht.filters.spotting.masking import mask_text, text_area  # noqa: E402
from open_diht.filters.spotting.settings import SpotterSettings  # noqa: E402
from open_diht.pipelines.driver import cli  # noqa: E402
from open_diht.pipelines.manifests.plan import load_plan  # noqa: E402
from open_diht.pipelines.output import Output  # noqa: E402
from open_diht.pipelines.pilot.measure import measure  # noqa: E402
from open_diht.pipelines.settings import ScoreSettings  # noqa: E402
from open_diht.pipelines.stages.encoders import Encoder, find_pair_encoder  # noqa: E402
from open_diht.pipelines.store.commit import read_json  # noqa: E402
from open_diht.pipelines.store.layout import Layout  # noqa: E402
from open_diht.pipelines.view import pages  # noqa: E402
from open_diht.pipelines.view.pages import Workbench  # noqa: E402
from open_diht.pipelines.view.query import Query, row_at, search  # noqa: E402
from tests.common.hostile_images import encode  # noqa: E402
from tests.pipelines.conftest import pairs_of  # noqa: E402
from tests.tiny_clip import write_tiny  # noqa: E402

Filtering = Callable[..., Any]
STAGES = ("score", "dedup", "export")
SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"
SIZE = 6
BATCHES = 2
NEGATIVES = f"{{batch_size: {SIZE}, batches: {BATCHES}, temperature: 0.02, keep: 0.6}}"
GOOD = "A brown dog runs on the beach {}"
LONG = "{} " + "words " * 20
FEWER = "captions: {max_chars: 60}"
MORE = "captions: {max_chars: 500}"
ROWS = 40


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ScoreSettings:
    folder = write_tiny(tmp_path_factory.mktemp("clip") / "tiny")
    return ScoreSettings(model=f"local-dir:{folder}", device="cpu", precision="fp32", batch_size=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the sample with captions, every fifth of them a long one; one is no image, and one
    absent."""
    return _manifest(tmp_path_factory.mktemp("in") / "a.parquet", _images(ROWS))


def _images(count: int) -> list[bytes | None]:
    images: list[bytes | None] = []
    for path in [path for path in sorted(SAMPLE.glob("0*.jpg"))][:count]:
        images.append(encode(Image.open(path).convert("RGB").resize((48, 48)), "PNG"))
    images[7], images[8] = b"<html>", None
    return images


def _manifest(path: Path, images: list[bytes | None]) -> Path:
    return pairs_of(
        path, [(GOOD if n % 5 else LONG).format(n) for n in range(len(images))], images, 5
    )


@pytest.fixture
def preset(tmp_path: Path) -> Callable[..., str]:
    """A preset like paper but for the section `score`."""

    def written(section: str, more: str = "") -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(f"base: paper\nscore: {section}\n{more or FEWER}\n", encoding="utf-8")
        return str(path)

    return written


def _scores(result: Any, column: str = "clip_score") -> dict[int, float]:
    rows = [row for kind in ("kept", "rejected") for row in result.rows(kind)]
    return {row["n"]: row[column] for row in rows if row[column] is not None}


def _written(output: Path, stage: str) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns
        for path in sorted((output / "work" / stage / "data").iterdir())
    }


def test_a_threshold_rejects_with_the_score_as_evidence_and_another_one_encodes_nothing(
    tmp_path, filtering, source, model, preset
):
    output = tmp_path / "out"
    everything = filtering(
        source, output, stages=STAGES, score=model, unit_rows=15, preset=preset("{}")
    )
    scores = _scores(everything)
    # Who has a caption and an image.
    assert set(scores) == {n for n in range(ROWS) if n % 5 and n not in (7, 8)}
    # Where nothing is asked, nobody has to have a score.
    assert {row["n"] for row in everything.rows("kept")} >= {
        7,
        8,
    }
    stored = _written(output, "score")
    middle = float(np.float32(np.median(list(scores.values()))))
    result = filtering(
        source,
        output,
        stages=STAGES,
        score=model,
        unit_rows=15,
        preset=preset(f"{{min: {middle}}}"),
    )
    verdicts = result.verdicts()
    for n, score in scores.items():
        assert verdicts[n] == ("kept" if score >= middle else "clip_score"), n
    assert [verdicts[n] for n in (7, 8)] == ["not_scored"] * 2 and verdicts[5] == "caption_length"
    steps = {
        step["reason"]: step["rejected"]
        for step in result.funnel["steps"]
        if step["stage"] == "score"
    }
    assert steps == {
        "not_scored": 2,
        "clip_score": sum(score < middle for score in scores.values()),
    }
    assert result.funnel["columns"]["column:clip_score"]["thresholds"] == [0]
    report = (output / "report.html").read_text(encoding="utf-8")
    assert "clip_score</bdi></h3>" in report and "clip_score</bdi> <b>" in report
    assert _written(output, "score") == stored, "nothing was encoded again"
    off = filtering(
        source, output, stages=("dedup",), unit_rows=15, preset=preset(f"{{min: {middle}}}")
    )
    assert "clip_score" not in off.rows("kept")[0], "without the stage nothing is decided by it"


def test_what_is_stored_is_the_similarity_of_what_is_stored(
    tmp_path, filtering, source, model, preset
):
    result = filtering(source, tmp_path / "out", stages=STAGES, score=model, preset=preset("{}"))
    table = pq.read_table(tmp_path / "out" / "work" / "score" / "data")
    assert table.schema.field("image_embedding").type == pa.list_(pa.float16(), 32)
    uids = {row["uid"]: row for kind in ("kept", "rejected") for row in result.rows(kind)}
    for row in table.to_pylist():
        mine = uids[row["uid"]]
        if row["status"] != "ok":
            assert mine["n"] in (7, 8) and mine["clip_score"] is None
            continue
        image, text = (np.array(row[f"{what}_embedding"], np.float64) for what in ("image", "text"))
        assert row["clip_score"] == mine["clip_score"] == np.float32(image @ text)
        assert np.linalg.norm(image) == pytest.approx(1, abs=1e-3)


def _textbook(output: Path, scores: dict[int, float], rows: dict[str, int]) -> dict[int, float]:
    """The corrected score in double precision, of the batches that the run has drawn."""
    table = pq.read_table(output / "work" / "score" / "data").to_pylist()
    vectors = {
        rows[row["uid"]]: [
            np.array(row[f"{what}_embedding"], np.float64) for what in ("image", "text")
        ]
        for row in table
        if row["status"] == "ok"
    }
    order = {tuple(np.concatenate(pair)): n for n, pair in vectors.items()}
    chosen = pq.read_table(output / "work" / "score_batches" / "data").to_pylist()
    members = [order[(*row["image_embedding"], *row["text_embedding"])] for row in chosen]
    assert len(members) == len(set(members)) == SIZE * BATCHES
    t = 0.02
    found = {}
    for n in scores:
        total = 0.0
        for first in range(0, len(members), SIZE):
            batch = members[first : first + SIZE]
            batch = batch if n in batch else [n, *batch[:-1]]
            for one, other in ((0, 1), (1, 0)):
                total += np.log(
                    np.mean([np.exp(vectors[n][one] @ vectors[j][other] / t) for j in batch])
                )
        found[n] = scores[n] - t / 2 * total / BATCHES
    return found


def test_the_corrected_score_equals_the_textbook_and_a_share_keeps_the_highest(
    tmp_path, filtering, source, model, preset
):
    output = tmp_path / "out"
    asked = preset(f"{{keep: 0.7, negatives: {NEGATIVES}}}")
    result = filtering(source, output, stages=STAGES, score=model, preset=asked)
    scores = _scores(result)
    corrected = _scores(result, "neg_clip_loss")
    rows = {row["uid"]: row["n"] for kind in ("kept", "rejected") for row in result.rows(kind)}
    expected = _textbook(output, scores, rows)
    assert corrected.keys() == scores.keys()
    assert [corrected[n] for n in sorted(scores)] == pytest.approx(
        [expected[n] for n in sorted(scores)], abs=1e-6
    )
    enough = sorted(scores, key=lambda n: -scores[n])[: int(np.ceil(0.7 * len(scores)))]
    best = sorted(scores, key=lambda n: -corrected[n])[: int(np.ceil(0.6 * len(scores)))]
    assert {row["n"] for row in result.rows("kept")} == set(enough) & set(best)
    verdicts = result.verdicts()
    assert {n for n in scores if verdicts[n] == "clip_score"} == set(scores) - set(enough)
    assert {n for n in scores if verdicts[n] == "neg_clip_loss"} == set(enough) - set(best)


def test_decisions_do_not_depend_on_units_or_shards(tmp_path, filtering, source, model, preset):
    how = {
        "stages": STAGES,
        "score": model,
        "preset": preset(f"{{keep: 0.7, negatives: {NEGATIVES}}}"),
    }
    one = filtering(source, tmp_path / "one", **how)
    other = filtering(source, tmp_path / "other", **how, unit_rows=7)
    assert one.tables() == other.tables(), "scores too, to the last bit"
    assert (
        filtering(source, tmp_path / "shards", **how, unit_rows=10, shard=(0, 2)).outcome.funnel
        is None
    )
    assert (
        filtering(source, tmp_path / "shards", **how, unit_rows=10, shard=(1, 2)).tables()
        == one.tables()
    )


@pytest.mark.parametrize("seed", range(2))
def test_whatever_commits_are_lost_the_result_is_the_same(
    seed, tmp_path, filtering, source, model, preset
):
    how = {
        "stages": STAGES,
        "score": model,
        "preset": preset(f"{{keep: 0.8, negatives: {NEGATIVES}}}"),
    }
    tables = filtering(source, tmp_path / "out", **how, unit_rows=10).tables()
    dice = random.Random(seed)
    for record in sorted((tmp_path / "out" / "work").glob("*/commits/*.json")):
        passes = ("score", "score_rows", "score_batches", "neg_clip_loss", "score_thresholds")
        if record.parts[-3] in passes and dice.random() < 0.4:
            record.unlink()
    again = filtering(source, tmp_path / "out", **how, unit_rows=10)
    assert again.tables() == tables
    assert filtering(source, tmp_path / "out", **how, unit_rows=10).did_nothing


def test_a_preset_that_lets_more_through_scores_only_these_and_alike(
    tmp_path, filtering, source, model, preset
):
    how = {"stages": STAGES, "score": model, "unit_rows": 15}
    filtering(source, tmp_path / "out", **how, preset=preset(f"{{negatives: {NEGATIVES}}}"))
    stored = _written(tmp_path / "out", "score")
    lenient = preset(f"{{negatives: {NEGATIVES}}}", MORE)
    more = filtering(source, tmp_path / "out", **how, preset=lenient)
    after = _written(tmp_path / "out", "score")
    assert stored.items() < after.items(), "what was encoded stays"
    assert len(_scores(more)) == ROWS - 2
    fresh = filtering(source, tmp_path / "fresh", **how, preset=lenient)
    assert fresh.tables() == more.tables()


def test_semantic_duplicates_are_found_by_the_embeddings_of_the_same_model(
    tmp_path, filtering, model, preset
):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install '.[score]'")
    images = _images(20)
    images[16] = images[11]
    source = _manifest(tmp_path / "a.parquet", images)
    dedup = FEWER + f"\ndedup: {{semantic: true, encoder: '{model.model}', eps: 0.000001}}"
    one = filtering(source, tmp_path / "one", stages=("dedup",), preset=preset("{}", dedup))
    other = filtering(
        source, tmp_path / "other", stages=STAGES, score=model, preset=preset("{}", dedup)
    )
    assert one.verdicts()[16] == "duplicate_semantic"
    assert other.verdicts() == one.verdicts()
    assert (tmp_path / "one" / "work" / "embeddings").exists()
    assert not (tmp_path / "other" / "work" / "embeddings").exists(), "no image is encoded twice"


def test_no_file_of_another_model_stays(tmp_path, filtering, source, model, preset):
    """Users read these files; of a row that is there twice, the last counts."""
    how = {"stages": STAGES, "unit_rows": 15}
    for chosen in (
        preset(f"{{negatives: {NEGATIVES}}}"),
        lenient := preset(f"{{negatives: {NEGATIVES}}}", MORE),
    ):
        filtering(source, tmp_path / "out", **how, score=model, preset=chosen)
    other = ScoreSettings(
        model=f"local-dir:{write_tiny(tmp_path / 'other', seed=1)}", device="cpu", batch_size=4
    )
    again, fresh = (
        filtering(source, tmp_path / name, **how, score=other, preset=lenient)
        for name in ("out", "fresh")
    )
    assert fresh.tables() == again.tables()
    known = json.loads((tmp_path / "out" / "run.json").read_text())["models"]["score"]
    assert known["model"] == other.model and known["precision"] in ("fp32", "bf16")
    files = [
        {path.name for path in (tmp_path / name / "work/score/data").iterdir()}
        for name in ("out", "fresh")
    ]
    assert files[0] == files[1]


def test_of_no_rows_a_share_is_none(tmp_path, filtering, model, preset):
    source = _manifest(tmp_path / "a.parquet", [None] * 6)
    asked = preset(f"{{keep: 0.5, negatives: {NEGATIVES}}}")
    result = filtering(source, tmp_path / "out", stages=STAGES, score=model, preset=asked)
    assert result.status == 1 and set(result.verdicts().values()) == {
        "not_scored",
        "caption_length",
    }
    assert "not_scored" in result.said[-1], "no row had an image"


def test_the_pilot_counts_as_many_comparisons_as_the_whole_takes(
    tmp_path, filtering, source, model, preset
):
    asked = preset("{negatives: {batch_size: 100, batches: 3}}")
    filtering(source, tmp_path / "out", stages=STAGES, score=model, preset=asked)
    layout = Layout(tmp_path / "out")
    (record,) = (read_json(path) for path in layout.commits("neg_clip_loss").glob("*.json"))
    assert record["rows"] == 30 and record["comparing_seconds"] > 0

    def seconds(rows: int) -> float:
        (unit,) = measure(layout, load_plan(layout.plan), load_preset(asked), rows)
        return unit.seconds["score"]

    for rows, compared in ((30, 30), (90, 90), (10**6, 300)):
        more = record["comparing_seconds"] * (compared / 30 - 1)
        assert seconds(rows) - seconds(30) == pytest.approx(more, abs=1e-6)


@pytest.mark.usefixtures("here")
def test_a_preset_that_asks_for_scores_needs_a_model(tmp_path, source, capfd, preset):
    words = [
        "--dataset",
        "custom",
        "--input",
        str(source),
        "--output",
        str(tmp_path / "out"),
        "--workers",
        "1",
    ]
    asked = ["--preset", preset("{min: 0.3}")]
    for more, message in (
        (asked, "pass --score-model"),
        (["--stages", "score"], "includes score, but no model is given"),
        (
            ["--preset", "tmars", "--score-model", "reference", "--stages", "score"],
            "add spotting to --stages",
        ),
        (
            [*asked, "--score-model", "timm:resnet50:x"],
            "unknown score model 'timm:resnet50:x'; choose reference",
        ),
        ([*asked, "--score-model", "open_clip:ViT-B-32:/no/such.pt"], "nothing is downloaded"),
    ):
        assert cli.main([*words, *more]) == 2
        errors = capfd.readouterr().err
        assert message in errors and errors.count("\n") == 1, errors
        assert not (tmp_path / "out").exists()
    assert cli.main([*words, *asked, "--stages", "dedup"]) == 0


# ---- the masked score

READ = ("spotting", *STAGES)
ANY_TEXT = FEWER + "\ntext_spotting: {min_chars: 4097}"
WITH_TEXT = 16


@pytest.fixture(scope="module")
def lettered(tmp_path_factory: pytest.TempPathFactory, ocr_models: None) -> Path:
    """Photographs, every second one with text; one is no image, and one absent."""
    images: list[bytes | None] = []
    for n, path in enumerate(sorted(SAMPLE.glob("0*.jpg"))[:WITH_TEXT]):
        image = Image.open(path).convert("RGB").resize((240, 160))
        if n % 2:
            ImageDraw.Draw(image).rectangle((20, 30 + 4 * n, 220, 64 + 4 * n), fill=(250, 250, 250))
            font = ImageFont.load_default(24)
            ImageDraw.Draw(image).text(
                (24, 32 + 4 * n), f"SALE {n} TODAY", fill=(0, 0, 0), font=font
            )
        images.append(encode(image, "PNG"))
    images[5], images[8] = b"<html>", None
    path = tmp_path_factory.mktemp("lettered") / "a.parquet"
    return pairs_of(path, [GOOD.format(n) for n in range(WITH_TEXT)], images, 5)


def _boxes(output: Path) -> dict[int, list[Any]]:
    rows = pq.read_table(output / "work" / "spotting" / "data").to_pylist()
    return {row["ordinal"]: [line["box"] for line in row["spotted"] or []] for row in rows}


def test_the_masked_score_is_that_of_the_image_without_its_text(
    tmp_path, filtering, lettered, model, preset
):
    output = tmp_path / "out"
    asked = preset("{masked: {}}", ANY_TEXT)
    result = filtering(lettered, output, stages=READ, score=model, preset=asked)
    (source,) = pq.ParquetFile(lettered).read(["image"]).to_pydict().values()
    texts = {
        row["ordinal"]: row["text_embedding"]
        for row in pq.read_table(output / "work/score/data").to_pylist()
    }
    encoder = Encoder(find_pair_encoder(model.model), batch=4)
    masked = _scores(result, "masked_score")
    areas = _scores(result, "text_area")
    assert masked.keys() == areas.keys() == _scores(result).keys() == {*range(WITH_TEXT)} - {5, 8}
    assert {row["error"] for row in result.rows("dead_letter")} == {"not_an_image"}, (
        "damage costs its own row"
    )
    assert result.verdicts()[8] == "image_not_available"
    boxes = _boxes(output)
    assert {n for n in masked if n % 2} <= {n for n, found in boxes.items() if found}
    for n, score in _scores(result).items():
        if not boxes[n]:
            assert (masked[n], areas[n]) == (score, 0)
            continue
        pixels = np.asarray(Image.open(io.BytesIO(source[n])))
        image: Any = encoder.encode([encode(Image.fromarray(mask_text(pixels, boxes[n])), "PNG")])[
            0
        ]
        assert (
            masked[n]
            == np.float32(np.asarray(image, np.float64) @ np.asarray(texts[n], np.float64))
            != score
        )
        assert areas[n] == np.float32(text_area(boxes[n], (240, 160))) > 0
    report = (output / "report.html").read_text(encoding="utf-8")
    without = 'alt="image of the row without its text"'
    assert without in report and "masked_score</bdi> <b>" in report
    bench = Workbench(Output(output), 100)
    for hit in search(bench.output, Query(end="kept"), None).hits:
        shown: Any = pages.row(bench, {"place": str(hit.place)})[1]
        row = row_at(bench.output, hit.place) or {}
        assert (without in shown["card"]) == (
            row["text_area"] > 0
        ) and "masked_score</bdi> <b>" in shown["card"]
        assert "masked_score" not in dict(shown["columns"]), "it is no column of the manifest"


@pytest.mark.slow
def test_thresholds_of_the_masked_score_change_without_scoring_again(
    tmp_path, filtering, lettered, model, preset
):
    how = {"stages": READ, "score": model, "unit_rows": 6}
    first = filtering(lettered, tmp_path / "out", **how, preset=preset("{masked: {}}", ANY_TEXT))
    scores = _scores(first, "masked_score")
    stored = [_written(tmp_path / "out", stage) for stage in ("spotting", "score")]
    best = sorted(scores, key=lambda n: -scores[n])[: (len(scores) + 1) // 2]
    for rule in ("{keep: 0.5}", f"{{min: {scores[best[-1]]}}}"):
        asked = preset(f"{{masked: {rule}}}", ANY_TEXT)
        verdicts = filtering(lettered, tmp_path / "out", **how, preset=asked).verdicts()
        assert {n for n, verdict in verdicts.items() if verdict == "kept"} == set(best)
        assert {
            n for n, verdict in verdicts.items() if verdict == "masked_score"
        } == scores.keys() - set(best)
    assert [_written(tmp_path / "out", stage) for stage in ("spotting", "score")] == stored
    plain = filtering(lettered, tmp_path / "out", **how, preset=preset("{}", ANY_TEXT))
    assert "masked_score" not in plain.rows("kept")[0] and "clip_score" in plain.rows("kept")[0]


@pytest.mark.slow
def test_masked_decisions_do_not_depend_on_units_or_shards(
    tmp_path, filtering, lettered, model, preset
):
    how = {"stages": READ, "score": model, "preset": preset("{masked: {keep: 0.5}}", ANY_TEXT)}
    tables = filtering(lettered, tmp_path / "one", **how).tables()
    units = filtering(lettered, tmp_path / "units", **how, unit_rows=5).tables()
    filtering(lettered, tmp_path / "shards", **how, unit_rows=7, shard=(0, 2))
    shards = filtering(lettered, tmp_path / "shards", **how, unit_rows=7, shard=(1, 2)).tables()
    for kind in ("kept", "rejected"):
        assert units[kind] == shards[kind] == tables[kind] != [], (
            "scores and areas too, to the last bit"
        )


@pytest.mark.slow
def test_only_images_with_text_are_scored_again_and_all_end_alike(
    tmp_path, filtering, lettered, model, preset
):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install '.[score]'")
    output = tmp_path / "out"
    how = {"stages": READ, "score": model}
    twins = ANY_TEXT + f"\ndedup: {{semantic: true, encoder: '{model.model}', eps: 0.000001}}"
    filtering(lettered, output, **how, preset=preset("{}", twins))
    stored = _written(output, "score")
    masked = preset("{masked: {keep: 0.7}}", twins)
    first = filtering(lettered, output, **how, preset=masked).tables()
    (new,) = _written(output, "score").keys() - stored.keys()
    assert pq.read_table(new)["ordinal"].to_pylist() == [
        n for n, boxes in sorted(_boxes(output).items()) if boxes
    ]
    assert first == filtering(lettered, tmp_path / "fresh", **how, preset=masked).tables()
    # Other boxes are masked again. Those that another reader finds alike are not.
    before = _boxes(output)
    for spotter in (SpotterSettings(reread=None), SpotterSettings(unclip_ratio=2.0)):
        again = filtering(lettered, output, **how, preset=masked, spotter=spotter)
        now = _boxes(output)
        changed = [n for n in sorted(now) if now[n] != before[n]]
        newest = max(_written(output, "score"), key=lambda path: path.name)
        assert not changed or pq.read_table(newest)["ordinal"].to_pylist() == changed
        before = now
    fresh = filtering(lettered, tmp_path / "other", **how, preset=masked, spotter=spotter)
    assert again.tables() == fresh.tables() != first
    assert filtering(lettered, output, **how, preset=masked).tables() == first, (
        "back to the first reader"
    )


def test_the_encoder_gets_full_batches(tmp_path, filtering, lettered, model, preset, monkeypatch):
    given: list[int] = []
    embed = Encoder.embed

    def counted(encoder: Encoder, prepared: Any) -> Any:
        given.append(len(prepared))
        return embed(encoder, prepared)

    monkeypatch.setattr(Encoder, "embed", counted)
    filtering(
        lettered,
        tmp_path / "out",
        stages=READ,
        score=model,
        preset=preset("{masked: {}}", ANY_TEXT),
    )
    lettered_images = sum(bool(boxes) for boxes in _boxes(tmp_path / "out").values())
    assert sum(given) == WITH_TEXT - 2 + lettered_images
    assert all(count % model.batch_size == 0 for count in given[:-1]), (
        "a batch that is not full costs as much"
    )
