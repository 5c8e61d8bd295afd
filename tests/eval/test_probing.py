"""Few-shot rows of a run: the shots alone are encoded, and they are those of the whole training split."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from open_diht.eval.data import open_support
from open_diht.eval.features import FeatureCache
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.fewshot import METHODS, draw_shots
from open_diht.eval.probing import evaluate_few_shot
from open_diht.eval.results import cautions, is_broken
from open_diht.eval.session import Session, open_task
from open_diht.eval.task import Shots
from open_diht.eval.tasks import Source, Task
from tests.eval.conftest import COLOURS, a_task, image
from tests.eval.test_features import counted_model
from tests.eval.test_zeroshot import collapsed
from tests.webdatasets import write_webdataset

TASK = a_task(
    "colours", "classification", "top1", support=(Source(layout="webdataset", path="training", split="train"),)
)


@pytest.fixture
def root(colour_set: Any) -> Any:
    folder = colour_set(n=9)
    names = list(COLOURS)
    samples = [(f"t{i:03d}", {"jpg": jpeg(image(names[i % 3], 100 + i)), "cls": str(i % 3)}) for i in range(60)]
    write_webdataset(folder / "training", samples, split="train", class_names=names, templates=["{}"])
    return folder


def rows(task: Task, root: Any, memo: Any, cache: FeatureCache, tmp_path: Any, shots: Shots) -> Any:
    session = Session(cache=cache, root=root, memo=memo, output=tmp_path / "out")
    return evaluate_few_shot(task, open_task(task, root, memo), session, shots)


def test_the_shots_are_those_of_the_whole_split_and_nothing_else_is_encoded(
    tmp_path: Any, root: Any, memo: Any, tiny: Any
) -> None:
    shots = Shots(counts=(1, 2), seeds=(0, 1, 2))
    model = counted_model(tiny)
    found = rows(TASK, root, memo, FeatureCache(tmp_path / "f", model), tmp_path, shots)
    support: Any = open_support(TASK, open_task(TASK, root, memo), root, memo)
    drawn = [draw_shots(list(support.images.keys), support.labels, 3, 2, seed) for seed in shots.seeds]
    kept = json.loads((tmp_path / "out" / "few_shot" / "colours.json").read_text(encoding="utf-8"))
    assert kept["shots"] == {str(one.seed): [list(keys) for keys in one.keys] for one in drawn}
    different = {key for one in drawn for keys in one.keys for key in keys}
    assert model.images_seen == 9 + len(different)
    assert {row.kind for row in found} == {"few_shot"}
    assert {row.protocol["few_shot"]["shots"] for row in found} == {1, 2}
    assert found[0].protocol["support"]["images"] == 60
    assert all(row.low <= row.value <= row.high for row in found)


def test_zero_shots_of_a_split_that_is_not_at_hand_is_a_row_that_says_so(
    tmp_path: Any, root: Any, memo: Any, cache: Any
) -> None:
    away = dataclasses.replace(TASK, support=(Source(layout="webdataset", path="away", split="train"),))
    (row,) = rows(away, root, memo, cache, tmp_path, Shots())
    assert row.value is None and "training split" in row.protocol["missing"]
    assert rows(dataclasses.replace(TASK, support=()), root, memo, cache, tmp_path, Shots()) == []


def test_a_class_without_a_training_image_costs_the_few_shot_part_alone(
    tmp_path: Any, root: Any, memo: Any, cache: Any
) -> None:
    samples = [(f"t{i}", {"jpg": jpeg(image("red", i)), "cls": "0"}) for i in range(5)]
    write_webdataset(root / "training", samples, split="train", class_names=list(COLOURS), templates=["{}"])
    (row,) = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(1,), seeds=(0,)))
    assert row.value is None and row.kind == "few_shot" and not is_broken(row)
    assert "2 of 3 classes have no image in training: green, blue" in row.protocol["missing"]


def test_a_training_split_with_other_classes_costs_the_few_shot_part_alone_and_is_broken_data(
    tmp_path: Any, root: Any, memo: Any, cache: Any
) -> None:
    samples = [(f"t{i}", {"jpg": jpeg(image("red", i)), "cls": str(i % 3)}) for i in range(6)]
    write_webdataset(root / "training", samples, split="train", class_names=["red", "blue", "green"], templates=["{}"])
    (row,) = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(1,), seeds=(0,)))
    assert is_broken(row) and "other classes than colours" in row.protocol["missing"]


def test_a_collapsed_model_scores_chance_with_every_method(tmp_path: Any, root: Any, memo: Any, tiny: Any) -> None:
    cache = FeatureCache(tmp_path / "f", collapsed(tiny, texts=True))
    found = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(1, 2, 5), seeds=(0, 1)))
    assert len(found) == 3 * len(METHODS)
    assert [row.value for row in found] == pytest.approx([1 / 3] * len(found))
    assert {row.protocol["chance"] for row in found} == {1 / 3}


def test_shots_that_are_also_test_images_are_counted_named_and_warned_of(
    tmp_path: Any, root: Any, memo: Any, cache: Any
) -> None:
    clean = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(1, 2), seeds=(0,)))
    assert clean[0].protocol["support"] | {"drawn": 6, "also_test": 0} == clean[0].protocol["support"]
    assert cautions(clean[0].protocol) == ""
    names = list(COLOURS)
    numbers = {0: 0, 1: 100, 2: 200, 3: 3, 4: 400, 5: 500}  # images 0 and 3 are those of the test split
    samples = [(f"t{i}", {"jpg": jpeg(image(names[i % 3], n)), "cls": str(i % 3)}) for i, n in numbers.items()]
    write_webdataset(root / "training", samples, split="train", class_names=names, templates=["{}"])
    found = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(1, 2), seeds=(0,)))
    for row in found:
        assert row.protocol["support"]["also_test"] == 2
        assert "2 of 6 shots are also test images" in cautions(row.protocol)
    kept = json.loads((tmp_path / "out" / "few_shot" / "colours.json").read_text(encoding="utf-8"))
    assert kept["also_test"] == ["t0", "t3"]


def test_every_few_shot_number_says_from_what_and_how(tmp_path: Any, root: Any, memo: Any, cache: Any) -> None:
    found = rows(TASK, root, memo, cache, tmp_path, Shots(counts=(2,), seeds=(0, 1)))
    for row in found:
        record, own = row.protocol, row.protocol["few_shot"]
        assert record["templates"]["count"] == 2 and record["class_names"]["count"] == 3
        assert record["support"]["split"] == "train" and record["data"]["split"] == "test"
        assert record["truncated_texts"] == 0 and record["ties"]
        assert len(record["support"]["images_sha256"]) == 64
        assert (
            own["seeds"] == [0, 1]
            and own["metric"] == "top1"
            and own["shots"] == 2
            and "test" not in own["selected_on"]
        )
    (probe,) = [row for row in found if row.protocol["few_shot"]["method"] == "probe"]
    assert [choice["seed"] for choice in probe.protocol["few_shot"]["choices"]] == [0, 1]
    assert all("delta" in choice["chosen"] for choice in probe.protocol["few_shot"]["choices"])
