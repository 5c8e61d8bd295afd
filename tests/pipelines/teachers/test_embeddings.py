"""Embeddings of a two-tower teacher: what is stored, what is taken over, and what a training reads
of it."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

open_clip = pytest.importorskip(
    "open_clip", reason="open_clip is not installed: pip install '.[score]'"
)

import torch  # noqa: E402
from PIL import Image  # noqa: E402

from open_diht.cli import main as open_diht_main  # noqa: E402
from open_diht.common.shard_index import scan  # noqa: E402
from open_diht.pipelines.driver import cli as filter_cli  # noqa: E402
from open_diht.pipelines.teachers import cli  # noqa: E402
from open_diht.trainer.embeddings import open_embeddings  # noqa: E402
from open_diht.trainer.embeddings.targets import EmbeddingTargets, ShardEmbeddings  # noqa: E402
from tests.pipelines.conftest import pairs_of  # noqa: E402
from tests.pipelines.kills import Moment, check_kills  # noqa: E402
from tests.pipelines.teachers.conftest import drawn, files_of  # noqa: E402
from tests.pipelines.teachers.test_kill import Runs as ConceptRuns  # noqa: E402
from tests.pipelines.teachers.test_kill import make_targets  # noqa: E402, F401  # which forks run
from tests.tiny_clip import write_tiny  # noqa: E402

WORDS = (
    "--store",
    "embeddings",
    "--workers",
    "1",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--batch-size",
    "4",
)


def long_image() -> bytes:
    """A line of noise, whose ends models do not see."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 1400, 3), dtype=np.uint8)).save(
        file, "PNG"
    )
    return file.getvalue()


LONG = long_image()


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{write_tiny(tmp_path_factory.mktemp('clip') / 'tiny')}"


def changed(number: int, members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Sample 2 has no image, 4 a long one, 5 one that is none, and the even ones have a second
    caption."""
    (image, content), caption, (name, row) = members
    row = json.dumps(
        {**json.loads(row), "other": 3 if number % 2 else f"picture {number}"}
    ).encode()
    content = {4: LONG, 5: b"<html>"}.get(number, content)
    found = [] if number == 2 else [(image, content)]
    return [*found, caption, (name, row)]


def store(data: Path, towers: str, *more: str) -> int:
    return cli.main(["--data", str(data), "--teacher", towers, *WORDS, *more])


def first(targets: EmbeddingTargets, data: Path) -> ShardEmbeddings:
    entry = json.loads((data / "shards" / "manifest.json").read_text())["shards"][0]
    shard = targets.shard(entry["shard"], entry["sha256"])
    assert shard is not None
    return shard


@pytest.mark.usefixtures("here")
def test_each_crop_and_caption_is_what_the_model_says_of_it_and_a_second_run_does_nothing(
    filtered, towers, capfd
):
    data = filtered.write([7, 6], changed)
    words = ["--crops", "2", "--crop-seed", "3", "--captions", "caption,other"]
    words += ["--max-bad-share", "0.2", "--datacompdr"]
    assert store(data, towers, *words) == 0
    said = capfd.readouterr().out
    assert "embeddings: 2 of 13 images have no embeddings (empty 1, not_an_image 1)" in said
    assert "6 have no other" in said and not (data / "concepts").exists()
    targets = open_embeddings(data / "embeddings")
    assert (targets.dimension, targets.crops, targets.seed, targets.captions) == (
        32,
        2,
        3,
        ("caption", "other"),
    )
    shard = first(targets, data)
    assert np.flatnonzero(~shard.image.any(axis=(1, 2))).tolist() == [2, 5]
    assert shard.text.any(axis=2).tolist() == [[True, n % 2 == 0] for n in range(7)]
    folder = towers.partition(":")[2]
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert targets.temperature == pytest.approx(float(1 / model.logit_scale.detach().exp()))
    image = Image.open(io.BytesIO(drawn("square", "red", 1))).convert("RGB")
    views = torch.stack([prepare(shard.view(image, 1, crop, 32)) for crop in range(2)])
    with torch.no_grad():
        images = model.eval().encode_image(views, normalize=True).numpy()
        texts = model.encode_text(
            open_clip.get_tokenizer(f"local-dir:{folder}")(["picture 4"]), normalize=True
        ).numpy()
    assert (
        np.abs(shard.image[1] - images).max() < 1e-3
        and np.abs(shard.text[4, 1] - texts[0]).max() < 1e-3
    )
    assert np.abs(images[0] - images[1]).max() > 1e-2  # else equal crops would go unnoticed

    written = open_embeddings(data / "embeddings" / "datacompdr")
    again = first(written, data)
    with open(data / "shards" / shard.shard, "rb") as tar:
        index = scan(shard.shard, tar)  # which leaves out sample 2
    found = dict(zip(index.keys, again.rows(index).tolist(), strict=True))
    places = np.array([found.get(key, -1) for key in shard.keys])
    assert np.flatnonzero(places < 0).tolist() == [2, 5] and written.captions == (
        "caption",
        "syn_text[0]",
    )
    assert np.abs(again.image[places[1]] - shard.image[1]).max() < 1e-3
    for row, shown in ((1, image), (4, Image.open(io.BytesIO(LONG)))):
        repeated = np.asarray(again.view(shown, int(places[row]), 1, 32))
        assert np.array_equal(repeated, np.asarray(shard.view(shown, row, 1, 32)))

    files = {path: path.stat().st_mtime_ns for path in (data / "embeddings").rglob("*.npz")}
    with patch(
        "open_diht.pipelines.teachers.embeddings.Encoder", side_effect=AssertionError("loaded")
    ):
        assert store(data, towers, *words) == 0
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert store(data, towers, *words, "--crop-seed", "4") == 0
    other = first(open_embeddings(data / "embeddings"), data)
    assert not np.array_equal(other.image, shard.image) and np.array_equal(other.text, shard.text)


@pytest.mark.usefixtures("here")
def test_shards_make_together_what_one_run_makes(filtered, towers, tmp_path):
    data = filtered.write([5, 4, 3], lambda n, m: [*m[:2]] if n == 4 else m)
    assert store(data, towers, "--output", str(tmp_path / "one")) == 0
    for number in range(2):
        assert not (tmp_path / "two" / "embeddings" / "targets" / "manifest.json").exists()
        assert store(data, towers, "--output", str(tmp_path / "two"), "--shard", f"{number}/2") == 0
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one") != {}
    manifests = [
        json.loads((tmp_path / n / "embeddings/targets/manifest.json").read_text())
        for n in ("one", "two")
    ]
    assert manifests[0]["shards"] == manifests[1]["shards"] and len(manifests[0]["shards"]) == 3


def test_embeddings_of_stage_score_are_taken_over_where_model_and_crop_agree(
    tmp_path, towers, here, capfd
):
    (tmp_path / "in").mkdir()
    source = pairs_of(
        tmp_path / "in" / "a.parquet",
        [f"A brown dog runs on the beach {n}" for n in range(12)],
        [drawn("square", "red", n) for n in range(12)],
        5,
    )
    data = tmp_path / "out"
    words = [
        "--input",
        str(source),
        "--output",
        str(data),
        "--stages",
        "score,export",
        "--workers",
        "1",
    ]
    words += [
        "--score-model",
        towers,
        "--score-device",
        "cpu",
        "--score-precision",
        "fp32",
        "--score-batch",
        "4",
    ]
    assert filter_cli.main(words) == 0
    capfd.readouterr()
    with patch(
        "open_diht.pipelines.teachers.embeddings.Encoder", side_effect=AssertionError("loaded")
    ):
        assert store(data, towers) == 0
    assert "12 taken over from stage score" in capfd.readouterr().out
    taken = first(open_embeddings(data / "embeddings"), data)
    assert taken.image.any(axis=2).all() and taken.text.any(axis=2).all()
    record = json.loads((data / "run.json").read_text())
    (data / "run.json").write_text(json.dumps({**record, "models": {}}))
    assert store(data, towers, "--output", str(tmp_path / "computed")) == 0
    assert "0 taken over from stage score" in capfd.readouterr().out
    computed = first(open_embeddings(tmp_path / "computed" / "embeddings"), data)
    assert computed.keys == taken.keys
    assert np.array_equal(computed.image, taken.image) and np.array_equal(computed.text, taken.text)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--store", "embeddings", "--teacher", "timm:resnet50"],
            "unknown teacher of embeddings 'timm:resnet50'",
        ),
        (["--crops", "2"], "add --store concepts,embeddings"),
        (
            ["--store", "embeddings", "--crop-scale", "0", "1"],
            "the value is 0; it must be above 0",
        ),
        (
            ["--store", "embeddings", "--captions", "a", "--datacompdr"],
            "begin --captions with caption",
        ),
        (["--store", "embeddings", "--crop-scale", "0.5", "1"], "add --crops 2"),
        (["--crop-seed", "1"], "add --crops 2"),
        (
            ["--store", "embeddings", "--crops", "2", "--crop-scale", "1", "0.5"],
            "--crop-scale is 1 0.5; give the smaller",
        ),
        (
            ["--store", "embeddings", "--captions", "caption,"],
            "--captions is 'caption,'; give different names",
        ),
        (["--store", "embeddings", "--captions", "caption,caption"], "give different names"),
        (
            ["--store", "embeddings", "--teacher", "TOWERS", "--captions", "caption, nowhere"],
            "the first 2 samples have no text 'nowhere'",
        ),
    ],
)
def test_wrong_use_is_refused_before_anything_is_written(filtered, towers, words, says, capsys):
    data = filtered.write([2])
    words = [towers if word == "TOWERS" else word for word in words]
    assert open_diht_main(["concepts", "--data", str(data), *words]) == 2
    assert says in capsys.readouterr().err and not {*data.iterdir()} - {
        data / "kept",
        data / "shards",
    }


class Runs(ConceptRuns):
    program = (__file__, "make_targets")  # whose forks have open_clip

    def words(self, given: Path, output: Path, *more: str, workers: int) -> list[str]:
        return ["--data", str(given), "--output", str(output.parent), *WORDS, *more]


@pytest.fixture
def runs(tmp_path: Path, forks: Any) -> Iterator[Runs]:
    with contextlib.closing(Runs(forks, tmp_path)) as made:
        yield made


@pytest.mark.kill
@pytest.mark.slow
def test_killed_and_started_again_equals_undisturbed(tmp_path, runs, filtered, towers, made):
    data = filtered.write(
        [24] * 4, lambda n, m: [(m[0][0], b"<html>"), *m[1:]] if n % 30 == 7 else m
    )
    calm = tmp_path / "calm" / "embeddings"
    killed = tmp_path / "killed" / "embeddings"
    options = ["--teacher", towers, "--crops", "2"]
    runs.finish(data, calm, *options)
    moments = [Moment("*", (0, 0.5), 0.1), Moment("*", (0.5, 1), 0.1)]
    left = check_kills(runs, data, options, moments, calm=calm, killed=killed, hits=1, read=made)
    assert len(left) == 4
    assert (killed / "targets" / "manifest.json").exists() and not [
        *(killed / "work/embeddings/begun").glob("*")
    ]
