"""A raised version of a task invalidates its own results and nothing else's."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from open_diht.eval.cli import main
from open_diht.eval.results import why_not_comparable

SUITE = """
name: two
about: two tasks on one set
tasks:
  - {name: one, kind: classification, title: One, metric: top1, license: CC0-1.0, get: paint some,
     version: VERSION, sources: [{layout: webdataset, path: colours}]}
  - {name: other, kind: classification, title: Other, metric: top1, license: CC0-1.0, get: GET,
     sources: [{layout: webdataset, path: colours}]}
"""


@pytest.fixture
def run(tmp_path, tiny_folder, colour_set) -> Callable[[int, str], dict[str, Any]]:
    """Evaluates both tasks; by task, its kept record."""
    root = colour_set()

    def evaluate(version: int, get: str) -> dict[str, Any]:
        suite = tmp_path / "mine.yaml"
        output = tmp_path / "out"
        suite.write_text(
            SUITE.replace("VERSION", str(version)).replace("GET", get), encoding="utf-8"
        )
        words = {
            "--model": tiny_folder,
            "--tasks": suite,
            "--data": root,
            "--output": output,
            "--device": "cpu",
        }
        words |= {"--cache": tmp_path / "cache", "--workers": 0}
        assert main([str(word) for pair in words.items() for word in pair]) == 0
        return {
            path.stem: json.loads(path.read_text()) for path in (output / "tasks").glob("*.json")
        }

    return evaluate


def test_a_raised_version_is_measured_again_and_the_other_task_is_kept(run):
    """How to get the data of the other one, which is said otherwise, is no part of its result."""
    before = run(1, "paint some")
    after = run(2, "paint them")
    assert before["one"]["key"] != after["one"]["key"] and before["other"] == after["other"]
    assert [
        found["one"]["results"][0]["protocol"]["task_version"] for found in (before, after)
    ] == [1, 2]


def test_numbers_of_other_versions_are_not_compared():
    # From before tasks had versions.
    old: dict[str, Any] = {
        "rules": 2,
        "data": {"images_sha256": "x"},
    }
    assert why_not_comparable(old, {**old, "task_version": 1}) == ""
    assert (
        why_not_comparable(old, {**old, "task_version": 2})
        == "other versions of the task (A: 1, B: 2); run `open-diht bench` for A again"
    )
