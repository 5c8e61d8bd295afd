"""Zero-shot classification: the classifier of the field, and a chance result for a model that sees
nothing."""

import dataclasses
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from open_diht.eval.errors import DataBroken
from open_diht.eval.features import FeatureCache
from open_diht.eval.session import open_task
from open_diht.eval.templates import look_up
from open_diht.eval.zeroshot import evaluate_classification, zero_shot_classifier
from tests.eval.conftest import a_task

TASK = a_task("colours", "classification", "top1")


class Collapsed:
    """A model that maps every image to one vector; with `texts` also every text."""

    def __init__(self, model: Any, texts: bool = False) -> None:
        self._model = model
        self._texts = texts

    def __getattr__(self, name: Any) -> Any:
        return getattr(self._model, name)

    @property
    def fingerprint(self) -> Any:
        return f"collapsed {self._texts} {self._model.fingerprint}"

    def images(self, batch: Any) -> Any:
        return np.eye(1, self.width, 2, dtype=np.float32).repeat(len(batch), axis=0)

    def texts(self, texts: Any) -> Any:
        return self.images(texts) if self._texts else self._model.texts(texts)


collapsed: Any = Collapsed


def test_the_classifier_is_that_of_open_clip(cache, tiny):
    names = ["cat", "dog", "fire truck", "{c}"]
    templates = look_up("templates", "clip_benchmark:cifar10")[:5]
    theirs = open_clip.build_zero_shot_classifier(
        tiny._model,
        tiny._tokenizer,
        names,
        [lambda name, t=t: t.replace("{c}", name, 1) for t in templates],
    )
    assert zero_shot_classifier(cache, names, templates) == pytest.approx(theirs.numpy(), abs=1e-6)


def test_top_1_is_counted_from_the_classifier_and_has_interval_items_and_protocol(
    cache, colour_set, memo, tiny
):
    data: Any = open_task(TASK, colour_set(n=24), memo)
    outcome: Any = evaluate_classification(TASK, data, cache)
    top1 = outcome.results[0]
    classifier = zero_shot_classifier(cache, ["red", "green", "blue"], ["a {c} thing.", "{c}!"])
    predicted = (cache.images(data.images).all() @ classifier).argmax(axis=1)
    assert (top1.metric, top1.n) == ("top1", 24) and top1.value == pytest.approx(
        (predicted == data.labels).mean()
    )
    assert top1.low <= top1.value <= top1.high
    assert (
        outcome.items.predicted.tolist() == predicted.tolist()
        and outcome.items.hits.mean() == top1.value
    )
    record = top1.protocol
    assert record["templates"]["count"] == 2 and record["chance"] == pytest.approx(1 / 3)
    assert (
        record["data"]["items"] == 24
        and record["model"]["weights_sha256"] == tiny.record["weights_sha256"]
    )
    assert record["preprocessing"]["size"] == [32, 32]
    assert record["software"]["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize("texts", [False, True])
def test_a_collapsed_model_scores_chance(tmp_path, tiny, colour_set, memo, texts):
    data: Any = open_task(TASK, colour_set(n=24), memo)
    outcome: Any = evaluate_classification(
        TASK, data, FeatureCache(tmp_path / "f", collapsed(tiny, texts))
    )
    found = {result.metric: result.value for result in outcome.results}
    assert found["top1"] == pytest.approx(1 / 3) and found["mean_per_class"] == pytest.approx(1 / 3)


def test_two_classes_have_an_roc_auc_which_may_be_the_tasks_metric(cache, colour_set, memo):
    root = colour_set(n=12, names=("red", "green", "blue"))
    data: Any = open_task(TASK, root, memo)
    two = dataclasses.replace(data, labels=data.labels % 2, class_names=("a", "b"))
    auc = dataclasses.replace(TASK, metric="roc_auc")
    outcome: Any = evaluate_classification(auc, two, cache)
    assert outcome.results[0].metric == "roc_auc" and 0 <= outcome.results[0].value <= 1
    assert "scores" in outcome.items.extra
    with pytest.raises(DataBroken, match="another number of classes"):
        evaluate_classification(auc, data, cache)


@pytest.mark.parametrize("metric", ["top1", "roc_auc"])
def test_a_two_class_set_of_which_one_class_was_drawn_has_no_auc_and_says_so(
    cache, colour_set, memo, metric
):
    data: Any = open_task(TASK, colour_set(n=6), memo)
    one = dataclasses.replace(data, labels=np.zeros(6, dtype=np.int64), class_names=("a", "b"))
    outcome: Any = evaluate_classification(dataclasses.replace(TASK, metric=metric), one, cache)
    first = outcome.results[0]
    assert first.metric == metric
    if metric == "roc_auc":
        assert first.value is None and first.protocol["missing"].endswith("all 6 are of class 0")
    else:
        assert first.value is not None and "roc_auc" not in {
            result.metric for result in outcome.results
        }


def test_several_labels_per_image_have_mean_average_precision(cache, colour_set, memo):
    data: Any = open_task(TASK, colour_set(n=12), memo)
    flags = dataclasses.replace(data, labels=np.eye(3, dtype=bool)[data.labels])
    outcome: Any = evaluate_classification(
        dataclasses.replace(TASK, metric="map_11point"), flags, cache
    )
    assert [result.metric for result in outcome.results] == ["map_11point", "map"]
    with pytest.raises(DataBroken, match="does not fit labels"):
        evaluate_classification(TASK, flags, cache)
