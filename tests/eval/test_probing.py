"""Few-shot rows of a run, and the full linear probe, whose penalty training images alone choose."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from open_diht.common.ranks import Ranks
from open_diht.eval.data import open_support
from open_diht.eval.features import FeatureCache
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.fewshot import METHODS, draw_shots
from open_diht.eval.probing import (
    COARSE,
    DECADE,
    HELD_OUT,
    best,
    evaluate_few_shot,
    evaluate_linear_probe,
    fit_linear_probe,
    held_out,
    search,
)
from open_diht.eval.results import cautions, is_broken
from open_diht.eval.session import Session, open_task
from open_diht.eval.task import Shots
from open_diht.eval.tasks import Source, Task
from tests.eval.conftest import COLOURS, a_task, image
from tests.eval.test_features import counted_model
from tests.eval.test_zeroshot import collapsed
from tests.webdatasets import write_webdataset

TASK = a_task(
    "colours",
    "classification",
    "top1",
    support=(Source(layout="webdataset", path="training", split="train"),),
)


def write_training(root: Any, names: Any = tuple(COLOURS), kinds: int = 3, n: int = 30) -> None:
    samples = [
        (f"t{i:03d}", {"jpg": jpeg(image(names[i % kinds], 100 + i)), "cls": str(i % kinds)})
        for i in range(n)
    ]
    write_webdataset(root / "training", samples, split="train", class_names=names, templates=["{}"])


@pytest.fixture
def root(colour_set) -> Any:
    folder = colour_set(n=9)
    write_training(folder, n=60)
    return folder


def rows(task: Task, root: Any, memo: Any, cache: FeatureCache, tmp_path: Any, shots: Shots) -> Any:
    session = Session(cache=cache, root=root, memo=memo, output=tmp_path / "out")
    return evaluate_few_shot(task, open_task(task, root, memo), session, shots)


def test_the_shots_are_those_of_the_whole_split_and_nothing_else_is_encoded(
    tmp_path, root, memo, tiny
):
    shots = Shots(counts=(1, 2), seeds=(0, 1, 2))
    model = counted_model(tiny)
    found = rows(TASK, root, memo, FeatureCache(tmp_path / "f", model), tmp_path, shots)
    support: Any = open_support(TASK, open_task(TASK, root, memo), root, memo)
    drawn = [
        draw_shots(list(support.images.keys), support.labels, 3, 2, seed) for seed in shots.seeds
    ]
    kept = json.loads((tmp_path / "out" / "few_shot" / "colours.json").read_text(encoding="utf-8"))
    assert kept["shots"] == {str(one.seed): [list(keys) for keys in one.keys] for one in drawn}
    different = {key for one in drawn for keys in one.keys for key in keys}
    assert model.images_seen == 9 + len(different)
    assert {row.kind for row in found} == {"few_shot"}
    assert {row.protocol["few_shot"]["shots"] for row in found} == {1, 2}
    assert found[0].protocol["support"]["images"] == 60 and all(
        row.low <= row.value <= row.high for row in found
    )


def probed(task: Any, root: Any, memo: Any, cache: Any) -> Any:
    session = Session(cache=cache, root=root, memo=memo, output=root / "out")
    return evaluate_linear_probe(task, open_task(task, root, memo), session)


@pytest.mark.parametrize("metric", ["few-shot", "linear probe"])
def test_without_a_training_split_that_fits_only_the_probe_has_no_number(
    metric, tmp_path, colour_set, memo, cache
):
    root = colour_set(n=6)

    def measured(task: Task = TASK) -> Any:
        if metric == "linear probe":
            return probed(task, root, memo, cache)
        return rows(task, root, memo, cache, tmp_path, Shots(counts=(1,), seeds=(0,)))

    (row,) = measured()
    assert (
        row.value is None and row.metric == metric and "training split" in row.protocol["missing"]
    )
    write_training(root, kinds=1, n=5)
    (row,) = measured()
    assert row.value is None and row.metric == metric and not is_broken(row)
    assert "2 of 3 classes have no image in training: green, blue" in row.protocol["missing"]
    write_training(root, names=("red", "blue", "green"), n=6)
    (row,) = measured()
    assert is_broken(row) and "other classes than colours" in row.protocol["missing"]
    assert measured(dataclasses.replace(TASK, support=())) == []


def test_a_collapsed_model_scores_chance_with_every_method(tmp_path, root, memo, tiny):
    cache = FeatureCache(tmp_path / "f", collapsed(tiny, texts=True))
    found = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(1, 2, 5), seeds=(0, 1)))
    assert len(found) == 3 * len(METHODS) and [row.value for row in found] == pytest.approx(
        [1 / 3] * len(found)
    )
    assert {row.protocol["chance"] for row in found} == {1 / 3}


def test_shots_that_are_also_test_images_are_counted_named_and_warned_of(
    tmp_path, root, memo, cache
):
    clean = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(1, 2), seeds=(0,)))
    assert (
        clean[0].protocol["support"] | {"drawn": 6, "also_test": 0} == clean[0].protocol["support"]
    )
    assert cautions(clean[0].protocol) == ""
    names = list(COLOURS)
    # Images 0 and 3 are those of the test split.
    numbers = {
        0: 0,
        1: 100,
        2: 200,
        3: 3,
        4: 400,
        5: 500,
    }
    samples = [
        (f"t{i}", {"jpg": jpeg(image(names[i % 3], n)), "cls": str(i % 3)})
        for i, n in numbers.items()
    ]
    write_webdataset(root / "training", samples, split="train", class_names=names, templates=["{}"])
    found = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(1, 2), seeds=(0,)))
    for row in found:
        assert row.protocol["support"]["also_test"] == 2
        assert "2 of 6 shots are also test images" in cautions(row.protocol)
    kept = json.loads((tmp_path / "out" / "few_shot" / "colours.json").read_text(encoding="utf-8"))
    assert kept["also_test"] == ["t0", "t3"]


def test_every_few_shot_number_says_from_what_and_how(tmp_path, root, memo, cache):
    found = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(2,), seeds=(0, 1)))
    for row in found:
        record = row.protocol
        own = row.protocol["few_shot"]
        assert record["templates"]["count"] == 2 and record["class_names"]["count"] == 3
        assert record["support"]["split"] == "train" and record["data"]["split"] == "test"
        assert (
            record["truncated_texts"] == 0
            and record["ties"]
            and len(record["support"]["images_sha256"]) == 64
        )
        assert (own["seeds"], own["metric"], own["shots"]) == (
            [0, 1],
            "top1",
            2,
        ) and "test" not in own["selected_on"]
    (probe,) = [row for row in found if row.protocol["few_shot"]["method"] == "probe"]
    assert [choice["seed"] for choice in probe.protocol["few_shot"]["choices"]] == [0, 1]
    assert all("delta" in choice["chosen"] for choice in probe.protocol["few_shot"]["choices"])


def test_the_probe_is_one_more_number_of_its_task_with_its_choices(
    tmp_path, colour_set, memo, tiny
):
    root = colour_set(n=12)
    write_training(root)
    cache = FeatureCache(tmp_path / "f", tiny)
    (row,) = probed(TASK, root, memo, cache)
    assert (row.task, row.kind, row.metric, row.n) == (
        "colours",
        "classification",
        "top1, linear probe",
        12,
    )
    assert row.low is None or row.low <= row.value <= row.high
    record = row.protocol["linear_probe"]
    assert record["selected_on"].startswith("6 of 30 training images")
    assert f"{record['l2']:.3g}" in record["tried"] and len(record["tried"]) <= len(COARSE) + 8
    assert row.protocol["support"]["images"] == 30 and row.protocol["chance"] == 1 / 3
    (again,) = probed(TASK, root, memo, cache)
    assert again == row


def test_the_answer_is_scikit_learns_and_the_test_set_has_no_say():
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = (np.eye(3, 8)[labels] + generator.normal(0, 0.7, (90, 8))).astype(np.float32)
    keys = [f"k{index}" for index in range(90)]
    found = fit_linear_probe(features, labels, keys)
    theirs = LogisticRegression(C=1 / found.penalty, max_iter=1000).fit(features, labels)
    assert np.array_equal(found.classifier.coef_, theirs.coef_) and found.converged
    held = held_out(keys, labels)
    part = LogisticRegression(C=1 / found.penalty, max_iter=1000).fit(
        features[~held], labels[~held]
    )
    assert found.tried[found.penalty] == np.mean(part.predict(features[held]) == labels[held])
    assert found.tried[found.penalty] == max(found.tried.values()) and found.held_out == held.sum()


@pytest.mark.parametrize("peak", [-6 * DECADE, -13, 0, 5, 6 * DECADE])
def test_the_search_finds_a_peak_to_an_eighth_of_a_decade(peak):
    tried = search(lambda step: -abs(step - peak), Ranks())
    assert best(tried) == peak and len(tried) <= len(COARSE) + 8
    flat = search(lambda step: 0.5, Ranks())
    assert best(flat) == 6 * DECADE  # of equal ones the most cautious


def test_each_class_is_held_out_alike_and_none_as_a_whole():
    labels = np.array([0] * 50 + [1] * 5 + [2] * 2 + [3])
    keys = [f"k{index}" for index in range(len(labels))]
    held = held_out(keys, labels)
    assert np.bincount(labels[held], minlength=4).tolist() == [50 // HELD_OUT, 1, 1, 0]
    backwards = held_out(keys[::-1], labels[::-1])
    assert np.array_equal(backwards[::-1], held)  # by key, whatever the order
