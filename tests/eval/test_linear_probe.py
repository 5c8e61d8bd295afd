"""The full linear probe is scikit-learn's at a penalty that training images alone chose."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from open_diht.common.ranks import Ranks
from open_diht.eval.features import FeatureCache
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.probing import (
    COARSE,
    DECADE,
    HELD_OUT,
    best,
    evaluate_linear_probe,
    fit_linear_probe,
    held_out,
    search,
)
from open_diht.eval.results import is_broken
from open_diht.eval.session import Session, open_task
from open_diht.eval.tasks import Source
from tests.eval.conftest import COLOURS, a_task, image
from tests.webdatasets import write_webdataset

TASK = a_task(
    "colours", "classification", "top1", support=(Source(layout="webdataset", path="training", split="train"),)
)


def write_training(root: Any, names: Any = tuple(COLOURS), kinds: int = 3) -> None:
    samples = [(f"t{i:03d}", {"jpg": jpeg(image(names[i % kinds], 100 + i)), "cls": str(i % kinds)}) for i in range(30)]
    write_webdataset(root / "training", samples, split="train", class_names=names, templates=["{}"])


def probed(task: Any, root: Any, memo: Any, cache: Any) -> Any:
    session = Session(cache=cache, root=root, memo=memo, output=root / "out")
    return evaluate_linear_probe(task, open_task(task, root, memo), session)


def test_the_probe_is_one_more_number_of_its_task_with_its_choices(
    tmp_path: Any, colour_set: Any, memo: Any, tiny: Any
) -> None:
    root = colour_set(n=12)
    write_training(root)
    cache = FeatureCache(tmp_path / "f", tiny)
    (row,) = probed(TASK, root, memo, cache)
    assert (row.task, row.kind, row.metric, row.n) == ("colours", "classification", "top1, linear probe", 12)
    assert row.low is None or row.low <= row.value <= row.high
    record = row.protocol["linear_probe"]
    assert record["selected_on"].startswith("6 of 30 training images")
    assert f"{record['l2']:.3g}" in record["tried"] and len(record["tried"]) <= len(COARSE) + 8
    assert row.protocol["support"]["images"] == 30 and row.protocol["chance"] == 1 / 3
    (again,) = probed(TASK, root, memo, cache)
    assert again == row


def test_what_cannot_be_probed_is_a_row_that_says_why(colour_set: Any, memo: Any, cache: Any) -> None:
    root = colour_set(n=6)
    (row,) = probed(TASK, root, memo, cache)
    assert row.value is None and "training split" in row.protocol["missing"]
    write_training(root, names=("red", "blue", "green"))
    (row,) = probed(TASK, root, memo, cache)
    assert is_broken(row) and "other classes" in row.protocol["missing"]
    write_training(root, kinds=2)
    (row,) = probed(TASK, root, memo, cache)
    assert "1 of 3 classes have no image" in row.protocol["missing"]
    assert probed(dataclasses.replace(TASK, support=()), root, memo, cache) == []


def test_the_answer_is_scikit_learns_and_the_test_set_has_no_say() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = (np.eye(3, 8)[labels] + generator.normal(0, 0.7, (90, 8))).astype(np.float32)
    keys = [f"k{index}" for index in range(90)]
    found = fit_linear_probe(features, labels, keys)
    theirs = LogisticRegression(C=1 / found.penalty, max_iter=1000).fit(features, labels)
    assert np.array_equal(found.classifier.coef_, theirs.coef_) and found.converged
    held = held_out(keys, labels)
    part = LogisticRegression(C=1 / found.penalty, max_iter=1000).fit(features[~held], labels[~held])
    assert found.tried[found.penalty] == np.mean(part.predict(features[held]) == labels[held])
    assert found.tried[found.penalty] == max(found.tried.values()) and found.held_out == held.sum()


@pytest.mark.parametrize("peak", [-6 * DECADE, -13, 0, 5, 6 * DECADE])
def test_the_search_finds_a_peak_to_an_eighth_of_a_decade(peak: int) -> None:
    tried = search(lambda step: -abs(step - peak), Ranks())
    assert best(tried) == peak and len(tried) <= len(COARSE) + 8
    flat = search(lambda step: 0.5, Ranks())
    assert best(flat) == 6 * DECADE  # of equal ones the most cautious


def test_each_class_is_held_out_alike_and_none_as_a_whole() -> None:
    labels = np.array([0] * 50 + [1] * 5 + [2] * 2 + [3])
    keys = [f"k{index}" for index in range(len(labels))]
    held = held_out(keys, labels)
    assert np.bincount(labels[held], minlength=4).tolist() == [50 // HELD_OUT, 1, 1, 0]
    backwards = held_out(keys[::-1], labels[::-1])
    assert np.array_equal(backwards[::-1], held)  # by key, whatever the order
