"""The command line: exit statuses, and the whole way from filtered data to targets that the trainer
reads."""

import json
from pathlib import Path

import numpy as np
import pytest

from open_diht.cli import main as open_diht_main
from open_diht.pipelines.runners import Direct, Job, Staged
from open_diht.pipelines.teachers import cli
from open_diht.pipelines.teachers.run import ConceptSettings
from open_diht.pipelines.teachers.teacher import find_teacher
from open_diht.trainer.concepts import open_targets
from open_diht.trainer.concepts.cli import main as second_half


def words_of(data: Path | str, teacher: tuple[str, str], *more: str) -> list[str]:
    name, weights = teacher
    return ["--data", str(data), "--teacher", name, "--weights", weights, *more]


@pytest.mark.usefixtures("here")
def test_the_whole_way(filtered, tiny, capfd):
    data = filtered.write([60, 40], lambda n, m: m[1:] if n == 5 else m)
    assert cli.main(words_of(data, tiny, "--workers", "1", "--min-count", "2")) == 0
    assert second_half(["--concepts", str(data / "concepts"), "--k", "2", "--min-steps", "40"]) == 0
    said = capfd.readouterr().out
    assert "vocabulary: 3 objects, 4 attributes, each in at least 2 of 100 rows" in said
    assert "features: 1 of 100 images have no features (missing_image 1)" in said
    assert "targets: 100 images in 2 shards, 2 of each head" in said
    targets = open_targets(data / "concepts")
    assert targets.heads == {"objects": 3, "attributes": 4} and targets.k == 2
    manifest = json.loads((data / "shards" / "manifest.json").read_text())
    entry = manifest["shards"][0]
    shard = targets.shard(entry["shard"], entry["sha256"])
    assert shard is not None and len(shard.keys) == 60
    ids, probabilities = shard.head("attributes", np.arange(60))
    assert not probabilities[5].any() and np.allclose(np.delete(probabilities, 5, 0).sum(1), 1)
    # Random features see colours: the teacher has learnt most of what the captions say.
    truth = [["red", "green", "blue", "yellow"][number // 3 % 4] for number in range(60)]
    names = json.loads((data / "concepts" / "vocabulary.json").read_text())["heads"]["attributes"][
        "names"
    ]
    assert sum(names[first] == colour for first, colour in zip(ids[:, 0], truth, strict=True)) > 40


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data", "/nowhere", "--teacher", "nobody"], "unknown teacher 'nobody'"),
        (["--data", "/nowhere", "--min-count", "0"], "the value is 0; it must be at least 1"),
        (["--data", "/nowhere", "--colour", "red"], "--colour"),
        (["--data", "/nowhere", "--output", ""], "--output is empty"),
        ([], "the following arguments are required: --data"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_data_in_a_store_that_does_not_answer(dead_store, tmp_path, tiny, capsys):
    output = str(tmp_path / "o")
    assert cli.main(words_of(f"{dead_store}/x", tiny, "--output", output)) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "error: s3://bucket/x cannot be read or written in its store (EndpointConnectionError"
    )
    assert said.count("\n") == 1 and "check DATA" in said and not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("here")
def test_what_shows_only_after_counting_is_status_1(filtered, tiny, capfd):
    data = filtered.write([6], lambda number, members: [*members[:2], (members[2][0], b"{}")])
    words = words_of(data, tiny, "--workers", "1", "--min-count")
    for count, says, written in (
        ("9", "lower --min-count", "work/vocabulary/commits"),
        ("2", "no sample has a .json with objects and attributes", "vocabulary.json"),
    ):
        assert cli.main([*words, count]) == 1
        error = capfd.readouterr().err
        last = error.splitlines()[-1]
        assert last.startswith("error: ") and says in last and error.count("error") == 1
        assert (data / "concepts" / written).exists()


@pytest.mark.parametrize(
    ("device", "gpus", "workers"), [("cpu", 0, 64), ("cuda", 8, 8), ("cuda:1", 8, 1)]
)
def test_a_process_for_each_gpu_or_core(device, gpus, workers, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    for asked in (None, 9):
        settings = ConceptSettings(
            data=tmp_path,
            output=tmp_path,
            teacher=find_teacher(*tiny),
            device=device,
            precision="fp32",
            workers=asked,
        )
        assert settings.units_at_once() == (asked or workers)
    assert settings.threads(100) == 64 // 9 and settings.images_at_once == (
        32 if device == "cpu" else 256
    )


@pytest.mark.usefixtures("here")
def test_where_and_which_units_are_those_of_make_filter(filtered, tiny, capfd):
    data = filtered.write([4, 4])
    words = [
        "--data",
        str(data),
        "--teacher",
        tiny[0],
        "--weights",
        tiny[1],
        "--min-count",
        "2",
        "--workers",
        "1",
    ]
    assert cli.main([*words, "--runner", "spark"]) == 2
    assert "unknown runner 'spark'" in capfd.readouterr().err
    assert cli.main([*words, "--shard", "2/2"]) == 2
    assert "is not i/n" in capfd.readouterr().err
    assert not (data / "concepts").exists()
    assert cli.main([*words, "--shard", "0/2"]) == 0
    heads = ["--concepts", str(data / "concepts"), "--min-steps", "5"]
    assert second_half(heads) == 1
    assert second_half([*heads, "--shard", "0/2"]) == 0
    assert "shard 0/2: heads and targets are left to the last shard" in capfd.readouterr().out


class Staging(Direct):
    """A backend that stages every job, as Dataflow does with a template location."""

    def run(self, job: Job) -> None:
        raise Staged(f"stage {job.label} is staged as template gs://bucket/t; nothing was started")


@pytest.mark.usefixtures("here")
def test_a_job_that_is_only_staged_ends_both_halves_with_status_0(
    filtered, tiny, monkeypatch, capfd
):
    data = filtered.write([4])
    monkeypatch.setattr(cli, "backend_of", lambda *_: Staging())
    words = [
        "--data",
        str(data),
        "--teacher",
        tiny[0],
        "--weights",
        tiny[1],
        "--template-location",
        "gs://bucket/t",
    ]
    assert open_diht_main(["concepts", *words]) == 0
    said = capfd.readouterr()
    assert (
        said.out.splitlines()[-1]
        == "stage vocabulary is staged as template gs://bucket/t; nothing was started"
    )
    assert "error" not in said.err
