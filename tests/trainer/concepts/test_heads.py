"""The teacher's heads: targets, up-sampling, learning, determinism."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.concepts.heads import HeadSettings, HeadTrainer, repeat_factors, soft_cross_entropy
from trainer.concepts.store import BadConcepts, Labels, concatenated

LISTS = st.lists(st.lists(st.integers(0, 5), max_size=4, unique=True), min_size=1, max_size=12)


def labels_of(lists: list[list[int]]) -> Labels:
    offsets = np.cumsum([0, *map(len, lists)])
    return Labels(offsets, np.array([one for some in lists for one in some], np.int32))


@given(lists=LISTS)
def test_each_of_m_concepts_gets_one_m_th(lists: list[list[int]]) -> None:
    ids, weights = labels_of(lists).padded(np.arange(len(lists)))
    for row, concepts in enumerate(lists):
        dense = np.zeros(6)
        np.add.at(dense, ids[row], weights[row])
        assert np.allclose(dense, [(number in concepts) / max(len(concepts), 1) for number in range(6)])


@given(parts=st.lists(LISTS, min_size=1, max_size=3))
def test_shards_are_put_together_in_order(parts: list[list[list[int]]]) -> None:
    whole = concatenated([labels_of(part) for part in parts])
    expected = labels_of([row for part in parts for row in part])
    assert whole.offsets.tolist() == expected.offsets.tolist() and whole.ids.tolist() == expected.ids.tolist()


@given(lists=LISTS, threshold=st.floats(0, 1))
def test_a_sample_repeats_as_its_rarest_concept_asks(lists: list[list[int]], threshold: float) -> None:
    frequencies = np.array([0.5, 0.2, 0.1, 0.01, 0.001, 0.0001])
    factors = repeat_factors(labels_of(lists), frequencies, threshold)
    for factor, concepts in zip(factors, lists, strict=True):
        expected = max((max(1, (threshold / frequencies[c]) ** 0.5) for c in concepts), default=0)
        assert factor == pytest.approx(expected)


def test_the_loss_is_the_dense_soft_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64)
    ids, weights = (torch.from_numpy(x) for x in labels_of([[1], [0, 5], [2, 3, 4], [5]]).padded(np.arange(4)))
    dense = torch.zeros(4, 6, dtype=torch.float64).scatter_add(1, ids, weights.double())
    expected = torch.nn.functional.cross_entropy(logits, dense)
    assert torch.allclose(soft_cross_entropy(logits, ids, weights), expected, rtol=1e-6)


def test_heads_learn_what_features_show_and_no_more(store: Any) -> None:
    heads = HeadTrainer(store(), HeadSettings(epochs=30, learning_rate=1e-2)).train()
    objects, attributes = heads["objects"].metrics, heads["attributes"].metrics
    assert objects["macro_recall_at_10"] == 1  # six concepts: all are among the first ten
    assert objects["loss"] < 0.6 * objects["prior_loss"]
    assert abs(attributes["loss"] - attributes["prior_loss"]) < 0.3  # odd or even rows: the features do not show it
    assert objects["train_samples"] + objects["held_out_samples"] == 3 * (120 - 6 - 12)
    assert heads["objects"].weight.shape == (6, 16)


def test_equal_seeds_give_equal_heads(store: Any) -> None:
    torch.manual_seed(1)
    one = HeadTrainer(store(), HeadSettings(epochs=2, min_steps=1)).train()
    torch.manual_seed(2)
    other = HeadTrainer(store(), HeadSettings(epochs=2, min_steps=1)).train()
    third = HeadTrainer(store(), HeadSettings(epochs=2, min_steps=1, seed=3)).train()
    assert torch.equal(one["objects"].weight, other["objects"].weight)
    assert not torch.equal(one["objects"].weight, third["objects"].weight)


def test_an_epoch_holds_rare_concepts_more_often(store: Any) -> None:
    trainer = HeadTrainer(store(rows=400), HeadSettings(repeat_threshold=0.5))
    frequencies = np.array([1.0, 0.25, 0.12, 0.06, 0.03, 0.03])
    drawn: Counter[int] = Counter()
    for _, ids, weights in trainer._batches("objects", 0, 0, frequencies):
        drawn.update(ids[weights > 0].tolist())
    usual: Counter[int] = Counter()
    for *_, labels in trainer._usable("objects", held=False):
        usual.update(labels.ids.tolist())
    for concept in range(1, 6):
        assert drawn[concept] / usual[concept] == pytest.approx((0.5 / frequencies[concept]) ** 0.5, rel=0.15)


def test_too_little_to_train_on_is_said(store: Any) -> None:
    with pytest.raises(BadConcepts, match=r"objects: \d samples with a concept to train on, 0 held out"):
        HeadTrainer(store(shards=1, rows=3), HeadSettings(holdout=0.0001)).train()


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"holdout": 1.0}, {"learning_rate": 0.0}, {"repeat_threshold": -1.0}])
def test_settings_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HeadSettings(**wrong)
