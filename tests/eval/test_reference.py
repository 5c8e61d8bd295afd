"""A real encoder on a set that nobody here wrote: `make bench-data TASK=demo`; without it skipped,
in CI an error."""

import dataclasses
from typing import Any

import pytest

from open_diht.eval.data import Memo, data_root
from open_diht.eval.errors import DataMissing, ModelError
from open_diht.eval.features import FeatureCache
from open_diht.eval.models import load_model
from open_diht.eval.probing import evaluate_few_shot
from open_diht.eval.retrieval import evaluate_retrieval
from open_diht.eval.selection import evaluate_caption_selection
from open_diht.eval.session import Session, open_task
from open_diht.eval.task import Shots
from open_diht.eval.tasks import load_suite
from open_diht.eval.vqa import evaluate_vqa
from open_diht.eval.zeroshot import evaluate_classification
from tests.eval.conftest import not_at_hand

ITEMS = 60
DEMO = {task.name: task for task in load_suite("demo").tasks}


@pytest.fixture(scope="module")
def reference() -> Any:
    try:
        return load_model("reference", data=data_root())
    except ModelError as error:
        not_at_hand(error)


@pytest.fixture(scope="module")
def memo(tmp_path_factory) -> Memo:
    return Memo(tmp_path_factory.mktemp("hashes"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory, reference) -> FeatureCache:
    """Of all tests here, which ask about the same images."""
    return FeatureCache(tmp_path_factory.mktemp("features"), reference)


def sampled(name: str, memo: Memo, items: int = ITEMS, **changes: Any) -> tuple[Any, Any]:
    task = dataclasses.replace(DEMO[name], sample=items, **changes)
    try:
        return task, open_task(task, data_root(), memo)
    except DataMissing as error:
        not_at_hand(error)


@pytest.mark.slow
def test_the_reference_encoder_knows_clothes_and_the_untrained_one_does_not(
    tmp_path, memo, cache, tiny
):
    task, data = sampled("fashion_mnist", memo, 2 * ITEMS)
    found = {}
    for one in (cache, FeatureCache(tmp_path / "f", tiny)):
        outcome: Any = evaluate_classification(task, data, one)
        found[one.model.name] = outcome.results[0]
    assert found["reference"].low > 0.1, "better than chance, with its interval"
    assert found["reference"].value > found[tiny.name].value and found[tiny.name].value < 0.25
    assert found["reference"].n == 2 * ITEMS


@pytest.mark.slow
def test_the_reference_encoder_finds_stamps_by_what_is_said_of_them(memo, cache):
    task, data = sampled("stamps_t2i", memo)
    recall = {one.metric: one for one in evaluate_retrieval(task, data, cache).results}
    assert (
        recall["recall@10"].low
        > recall["recall@10"].protocol["chance"]
        == pytest.approx(10 / ITEMS)
    )
    task, data = sampled("stamps_questions", memo, 40)
    answers = evaluate_vqa(task, data, cache).results[0]
    assert answers.low is not None and answers.high is not None
    assert answers.low < answers.protocol["chance"] < answers.high, (
        "it answers as chance does, also over all 600"
    )


@pytest.mark.slow
def test_the_reference_encoder_chooses_captions_of_stamps(memo, cache):
    task, data = sampled("stamps_selection", memo, 100, metric="accuracy")
    found = {one.metric: one for one in evaluate_caption_selection(task, data, cache).results}
    added = found["accuracy (add_object)"]
    assert added.value is not None and added.value > 0.5
    relation = found["accuracy (replace_relation)"]
    assert relation.low is not None and relation.low < 0.5, (
        "an encoder of classes does not see left and right"
    )


@pytest.mark.slow
def test_few_shots_of_clothes_teach_the_reference_encoder(tmp_path, memo, cache):
    task, data = sampled("fashion_mnist", memo, 2 * ITEMS)
    shots = Shots(counts=(1, 4), seeds=(0,))
    session = Session(cache=cache, root=data_root(), memo=memo, output=tmp_path / "out")
    found = evaluate_few_shot(task, data, session, shots)
    value = {row.metric: row.value or 0.0 for row in found}
    assert value["top1, probe, 4 shots"] > value["top1, zero-shot, 4 shots"]
    assert value["top1, probe, 4 shots"] > value["top1, random-init, 1 shots"]


def test_without_its_weights_the_reference_says_how_to_get_them(tmp_path):
    with pytest.raises(ModelError, match="open-diht bench-data --task reference"):
        load_model("reference", data=tmp_path)
