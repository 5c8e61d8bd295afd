"""The arms of the claim fewshot, on features that were made up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.eval.fewshot import Encoded
from study.claims import fewshot
from study.claims.fewshot import GROCERIES, METHODS
from study.data import Data, SetMissing
from study.rows import Arm

CLASSES = 3
WIDTH = 8
NAMES = (
    "Banana",
    "Royal Gala",
    "Arla Sour Milk",
    "God Morgon Apple Juice",
    "Zucchini",
    "Regular Tomato",
)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLASSES, WIDTH))
    labels = np.repeat(np.arange(CLASSES), 20)
    images = unit(centres[labels] + 0.8 * generator.normal(size=(len(labels), WIDTH)))
    text = unit(centres + generator.normal(size=centres.shape)).T
    encoded = Encoded(
        train=images[::2],
        train_labels=labels[::2],
        train_keys=[str(number) for number in range(30)],
        test=images[1::2],
        classifier=text,
        logit_scale=20.0,
    )
    pool = (encoded, labels[1::2])
    monkeypatch.setattr(fewshot, "open_pool", lambda name, data: pool)
    fewshot._curves.cache_clear()
    return Data(tmp_path, tmp_path / "cache")


def arm(method: str, k: int = 2, seed: int = 0) -> Arm:
    return Arm(claim="fewshot", pool="shapes", arm=method, budget=k, seed=seed)


def test_every_arm_says_which_images_it_gets_right(data: Data) -> None:
    for method in METHODS:
        metrics, items, notes = fewshot.run(arm(method), data)
        right = items["shapes-test/correct"]
        assert right.shape == (30,) and metrics["shapes-test/correct/top1"] == right.mean()
        assert (
            notes["shots"] == 6
            and notes["classes"] == CLASSES
            and notes["selected_on"] == "support_cv"
        )


def test_zero_shot_takes_no_shots(data: Data) -> None:
    _, items, notes = fewshot.run(arm("zero-shot", 0), data)
    encoded: Any = fewshot.open_pool("shapes", data)[0]
    scores = encoded.test @ encoded.classifier
    expected = scores.argmax(axis=1) == np.repeat(np.arange(CLASSES), 10)
    assert items["shapes-test/correct"].tolist() == expected.tolist()
    assert notes["shots"] == 0


def test_other_draws_are_other_shots_and_the_same_draw_the_same(data: Data) -> None:
    one, again, other = (
        fewshot.run(arm("random-init", 1, seed), data)[1]["shapes-test/correct"].tolist()
        for seed in (0, 0, 1)
    )
    assert one == again and one != other


def test_a_class_with_fewer_images_gives_all_it_has(data: Data) -> None:
    _, _, notes = fewshot.run(arm("probe", 16), data)
    assert (notes["classes_with_fewer_shots"], notes["shots"]) == (3, 30)


def test_every_kind_of_grocery_is_in_one_pool() -> None:
    found = {name: [pool for pool, is_in in GROCERIES.items() if is_in(name)] for name in NAMES}
    assert all(len(pools) == 1 for pools in found.values())
    assert found["Banana"] == found["Zucchini"] == ["grocery-inside"]
    assert found["Arla Sour Milk"] == found["God Morgon Apple Juice"] == ["grocery-packages"]


def test_without_the_reference_encoder_nothing_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIHT_BENCH_DATA", str(tmp_path / "bench"))
    with pytest.raises(SetMissing, match="bench-data --task reference"):
        fewshot.arms("cpu", "full", Data(tmp_path, tmp_path / "cache"))
