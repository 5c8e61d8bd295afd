"""The teacher's heads: targets, learning, what is chosen by what, determinism."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from open_diht.trainer.concepts import heads as module
from open_diht.trainer.concepts.cli import table
from open_diht.trainer.concepts.heads import HeadTrainer, metrics, soft_cross_entropy
from open_diht.trainer.concepts.samples import HeadSamples, Part, Samples
from open_diht.trainer.concepts.store import BadConcepts, Labels, concatenated
from open_diht.trainer.head_options import HeadSettings
from tests.trainer.concepts.conftest import LISTS, labels_of


@given(lists=LISTS)
def test_each_of_m_concepts_gets_one_m_th(lists: list[list[int]]) -> None:
    ids, weights = labels_of(lists).padded(np.arange(len(lists)))
    for row, concepts in enumerate(lists):
        dense = np.zeros(6)
        np.add.at(dense, ids[row], weights[row])
        assert np.allclose(
            dense, [(number in concepts) / max(len(concepts), 1) for number in range(6)]
        )


@given(parts=st.lists(LISTS, min_size=1, max_size=3))
def test_shards_are_put_together_in_order(parts: list[list[list[int]]]) -> None:
    whole = concatenated([labels_of(part) for part in parts])
    expected = labels_of([row for part in parts for row in part])
    assert (
        whole.offsets.tolist() == expected.offsets.tolist()
        and whole.ids.tolist() == expected.ids.tolist()
    )


def test_the_loss_is_the_dense_soft_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64)
    ids, weights = (
        torch.from_numpy(x) for x in labels_of([[1], [0, 5], [2, 3, 4], [5]]).padded(np.arange(4))
    )
    dense = torch.zeros(4, 6, dtype=torch.float64).scatter_add(1, ids, weights.double())
    expected = torch.nn.functional.cross_entropy(logits, dense)
    assert torch.allclose(soft_cross_entropy(logits, ids, weights), expected, rtol=1e-6)


def test_heads_learn_what_features_show_and_no_more(store: Any) -> None:
    heads = HeadTrainer(store(), HeadSettings(epochs=30, learning_rate=1e-2)).train()
    objects = heads["objects"].metrics
    attributes = heads["attributes"].metrics
    assert objects["macro_recall_at_10"] == 1  # six concepts: all are among the first ten
    assert objects["loss"] < 0.6 * objects["prior_loss"]
    # Odd or even rows: the features do not show it.
    assert abs(attributes["loss"] - attributes["prior_loss"]) < 0.3
    parts = [objects[f"{part}_samples"] for part in ("train", "validation", "test")]
    assert sum(parts) == 3 * (120 - 6 - 12) and all(parts)
    assert heads["objects"].weight.shape == (6, 16)


def test_equal_seeds_give_equal_heads(store: Any) -> None:
    torch.manual_seed(1)
    one = HeadTrainer(store(), HeadSettings(epochs=2, min_steps=1)).train()
    torch.manual_seed(2)
    other = HeadTrainer(store(), HeadSettings(epochs=2, min_steps=1)).train()
    third = HeadTrainer(store(), HeadSettings(epochs=2, min_steps=1, seed=3)).train()
    assert torch.equal(one["objects"].weight, other["objects"].weight)
    assert not torch.equal(one["objects"].weight, third["objects"].weight)


def test_validation_chooses_and_test_is_reported(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poisoned validation labels choose another epoch; poisoned test labels change the figures and
    nothing else."""
    known = store()
    settings = HeadSettings(epochs=12, learning_rate=0.2, holdout=0.4)
    honest = HeadTrainer(known, settings).train()["objects"]
    whole = HeadSamples.measured

    def poisoned(part: Part) -> Any:
        def measured(samples: HeadSamples, asked: Part) -> Samples:
            found = whole(samples, asked)
            labels = Labels(found.labels.offsets, (found.labels.ids + 3) % samples.classes)
            return Samples(found.features, labels) if asked == part else found

        return measured

    monkeypatch.setattr(HeadSamples, "measured", poisoned(Part.TEST))
    tested = HeadTrainer(known, settings).train()["objects"]
    assert (
        torch.equal(tested.weight, honest.weight)
        and tested.metrics["top1"] < honest.metrics["top1"] - 0.3
    )
    monkeypatch.setattr(HeadSamples, "measured", poisoned(Part.VALIDATION))
    chosen = HeadTrainer(known, settings).train()["objects"]
    assert not torch.equal(chosen.weight, honest.weight)


def test_figures_by_hand() -> None:
    """Two concepts: the head is right about the first of three samples, and about one of two
    concepts of the last."""
    features = np.array([[1, 0], [0, 1], [0, 1]], np.float16)
    samples = Samples(features, labels_of([[0], [0], [1, 2]]))
    found = metrics(torch.eye(2).repeat(2, 1)[:3], torch.zeros(3), np.array([5, 1, 1]), samples)
    assert found["top1"] == pytest.approx(2 / 3) and found["prior_top1"] == pytest.approx(2 / 3)
    assert found["recall_at_10"] == found["macro_recall_at_10"] == 1
    assert 0 < found["top1_low"] < found["top1"] < found["top1_high"] < 1


def test_the_table_says_what_it_was_tested_on(store: Any) -> None:
    lines = table(HeadTrainer(store(), HeadSettings(epochs=1, min_steps=1)).train())
    assert "trained" in lines[0] and "chosen by" in lines[0] and "tested" in lines[0]
    assert lines[-1].startswith("tested on few images (objects ") and "rough" in lines[-1]


def test_how_far_it_is_is_said(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAY_S", 0.0)
    said: list[str] = []
    HeadTrainer(store(), HeadSettings(epochs=2, min_steps=1), said.append).train()
    assert said[0] == "objects: epoch 1 of 2, step 2 of 4"
    assert said[1].startswith("objects: epoch 2 of 2, step 4 of 4, best validation loss ")


def test_a_loss_that_is_not_finite_is_said(store: Any) -> None:
    with pytest.raises(
        BadConcepts,
        match=r"objects: the loss .* was not finite in any of 2 epochs; lower --learning",
    ):
        HeadTrainer(store(), HeadSettings(epochs=2, min_steps=1, learning_rate=3e37)).train()


def test_too_little_to_train_on_is_said(store: Any) -> None:
    said = r"objects: \d training, 0 validation and .* another --holdout"
    with pytest.raises(BadConcepts, match=said):
        HeadTrainer(store(shards=1, rows=3), HeadSettings(holdout=0.0001)).train()


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"holdout": 1.0}, {"learning_rate": 0.0}, {"repeat_threshold": -1.0}]
)
def test_settings_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HeadSettings(**wrong)
