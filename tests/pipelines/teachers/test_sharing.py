"""SHARD=i/n of `make concepts`: what n invocations make is what one makes."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm  # noqa: F401  # that forks have it
import torch  # noqa: F401

from open_diht.pipelines.teachers.run import ConceptSettings, run
from open_diht.pipelines.teachers.teacher import find_teacher
from tests.pipelines.conftest import Here

SHARDS = 3


def shard(i: int, data: str, output: str, name: str, weights: str) -> None:
    """One of them. Runs in a process of its own."""
    how: dict[str, Any] = {
        "min_count": 2,
        "batch_size": 4,
        "precision": "fp32",
        "workers": 1,
        "backend": Here(),
    }
    teacher = find_teacher(name, weights)
    settings = ConceptSettings(
        data=Path(data), output=Path(output), teacher=teacher, shard=(i, SHARDS), **how
    )
    assert run(settings, lambda line: print(line, flush=True)) == 0


@pytest.fixture
def data(filtered) -> Path:
    folder: Path = filtered.write(
        [9, 5, 7, 1, 4, 6, 3], lambda n, m: [(m[0][0], b"<html>")] if n == 6 else m
    )
    return folder


def counts(output: Path) -> list[tuple[str, int, int]]:
    """Of each shard: rows, and how many of them are bad."""
    records = [
        json.loads(path.read_text())
        for path in sorted((output / "work/features/commits").glob("*.json"))
    ]
    return [(record["unit"], record["rows"], len(record["bad"])) for record in records]


@pytest.mark.slow
def test_at_once_they_end_as_one_process(data, forks, tiny, make, made, tmp_path):
    one = tmp_path / "one"
    together = tmp_path / "together"
    assert make(data, output=one, batch_size=4, precision="fp32")[0] == 0
    said = [tmp_path / f"said-{i}" for i in range(SHARDS)]
    words = (str(data), str(together), *tiny)
    processes = [forks.start(__file__, "shard", i, *words, said=said[i]) for i in range(SHARDS)]
    assert [forks.wait(process) for process in processes] == [0] * SHARDS, [
        file.read_text() for file in said
    ]
    assert made(together) == made(one)
    assert counts(together) == counts(one) and sum(rows for _, rows, _ in counts(one)) == 35
    about = [json.loads((folder / "concepts.json").read_text()) for folder in (one, together)]
    assert about[0]["shards"] == about[1]["shards"]
    finished = [
        file for file in said if "is the last one and completes the output" in file.read_text()
    ]
    assert len(finished) == 1


def test_one_after_the_other_the_last_finishes_and_nothing_looks_finished_before(
    data, tiny, make, made, tmp_path
):
    output = tmp_path / "shards"
    how = {"batch_size": 4, "precision": "fp32"}
    for i in range(SHARDS - 1):
        status, said = make(data, output=output, shard=(i, SHARDS), **how)
        assert status == 0 and f"shard {i}/{SHARDS} done" in said[-1]
        assert not (output / "concepts.json").exists() and not (output / "vocabulary.json").exists()
    assert len(counts(output)) == 5  # of the seven, two are the third one's
    status, said = make(data, output=output, shard=(SHARDS - 1, SHARDS), **how)
    assert status == 0 and any("is the last one and completes the output" in line for line in said)
    again, said = make(data, output=output, **how)
    assert again == 0 and not any(
        "features" in line for line in said if "have no features" not in line
    )
    make(data, output=tmp_path / "one", **how)
    assert made(output) == made(tmp_path / "one")


def test_a_run_without_shard_finishes(data, make, made, tmp_path):
    output = tmp_path / "shards"
    how = {"batch_size": 4, "precision": "fp32"}
    make(data, output=output, shard=(1, SHARDS), **how)
    before = {
        path: path.stat().st_mtime_ns for path in (output / "work" / "features" / "data").iterdir()
    }
    assert before and make(data, output=output, **how)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (output / "concepts.json").exists()
