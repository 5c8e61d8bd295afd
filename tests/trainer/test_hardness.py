"""Before a short run with hard negatives at a high initial scale there is a line that says what to set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from open_diht.trainer.config_files import load_config
from open_diht.trainer.hardness import about_scale, fitting_scale
from open_diht.trainer.loop import train

DATA = {"data": {"sources": [{"path": "out/sample"}]}}


def test_the_fitting_scale_falls_with_beta() -> None:
    assert [fitting_scale(beta) for beta in (0, 0.5, 1)] == [10, 5, 10 / 3]


def test_a_short_run_is_told_value_place_and_remedy() -> None:
    config = load_config("tiny", ["model.temperature=0.07", "loss.beta=0.5"], DATA)
    said = about_scale(config, 30)
    assert said is not None
    assert "loss.beta 0.5 at model.temperature 0.07, a scale of 14.3: 30 steps" in said
    assert "model.temperature=0.2 (a scale of 5)" in said


@pytest.mark.parametrize(
    "words",
    [
        [],  # tiny starts as it is told to
        ["model.temperature=0.07", "loss.beta=0"],
        ["model.temperature=0.07", "loss.name=infonce"],
        ["model.temperature=0.07", "model.warm_start=weights.pt"],  # a learned scale comes along
    ],
)
def test_nothing_is_said_where_nothing_is_wrong(words: list[str]) -> None:
    if "model.warm_start=weights.pt" in words:
        words = [*words, "model.warm_start_image=''"]
    assert about_scale(load_config("tiny", words, DATA), 30) is None


def test_a_long_run_learns_its_scale() -> None:
    config = load_config("vit-b-32", base=DATA)
    assert about_scale(config, 200) is not None
    assert about_scale(config, 970_000) is None


def test_a_run_says_it_before_the_first_step(tiny_config: Callable[..., Any], tmp_path: Any) -> None:
    said: list[str] = []
    train(tiny_config(schedule={"samples": 16, "warmup_samples": 0}), tmp_path, said.append)
    first = next(number for number, line in enumerate(said) if line.startswith("step 1/1"))
    assert any("loss.beta 0.25 at model.temperature 0.07" in line for line in said[:first])
