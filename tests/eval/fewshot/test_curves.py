"""Curves: everything a reader needs to draw them again, and no test label behind any choice."""

import contextlib
import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from open_diht.common.ranks import Ranks
from open_diht.eval.fewshot import Encoded, FewShotResult, FewShotSettings, run
from open_diht.eval.metrics.classification import mean_per_class
from tests.eval.fewshot.conftest import World

SMALL = FewShotSettings(shots=(1, 2, 4), seeds=(0, 1, 2))


def curves(
    world: World,
    test_labels: Any = None,
    settings: FewShotSettings = SMALL,
    group: Ranks | None = None,
    **changes: Any,
) -> FewShotResult:
    encoded = Encoded(
        train=world.train.float().numpy(),
        train_labels=world.train_labels.numpy(),
        train_keys=world.keys,
        test=world.test.float().numpy(),
        classifier=world.classifier.float().numpy().T,
        logit_scale=world.scale,
    )
    labels = world.test_labels.numpy() if test_labels is None else test_labels
    return run(dataclasses.replace(encoded, **changes), labels, settings, group)


@pytest.fixture(scope="module")
def result(world) -> FewShotResult:
    return curves(world)


def test_poisoned_test_labels_change_scores_and_nothing_else(world, result):
    labels = np.random.default_rng(0).permutation(world.test_labels.numpy())
    some = FewShotSettings(shots=(1, 4), seeds=(0, 1))
    poisoned = curves(world, test_labels=labels, settings=some)
    chosen = [one for one in result.choices if one.shots in some.shots and one.seed in some.seeds]
    assert list(poisoned.choices) == chosen and poisoned.shots == {
        seed: result.shots[seed] for seed in some.seeds
    }
    for cell, classes in poisoned.predicted.items():
        assert np.array_equal(classes, result.predicted[cell])
    assert poisoned.point("probe", 4).value < result.point("probe", 4).value


def test_points_are_means_over_seeds_with_an_interval(world, result):
    labels = world.test_labels.numpy()
    for point in result.points:
        per_seed = [
            (result.predicted[point.method, point.shots, seed] == labels).mean()
            for seed in (0, 1, 2)
        ]
        assert point.per_seed == pytest.approx(tuple(per_seed))
        assert point.value == pytest.approx(np.mean(per_seed)) and point.std == pytest.approx(
            np.std(per_seed, ddof=1)
        )
        assert point.low is not None and point.low < point.value < (point.high or 0)


def test_ranks_share_support_sets_and_methods_and_get_what_one_process_gets(world, result):
    class One(Ranks):
        """A rank that hands its part out, and gets those of the others."""

        def collect(self, value: Any) -> list[Any]:
            parts.append(value)
            return [value, *others]

    settings = FewShotSettings(
        shots=(1, 2), seeds=(0, 1, 2), methods=("zero-shot", "probe", "random-init", "text-or-zero")
    )
    parts: list[dict[Any, Any]] = []
    others: list[dict[Any, Any]] = []
    for rank in (0, 1, 2):
        others = list(parts)
        with contextlib.suppress(KeyError):  # the first two have not got everything yet
            found = curves(world, settings=settings, group=One(rank, 3))
    cells = [set(part) for part in parts]
    assert [len(part) for part in cells] == [8, 8, 8] and len(set.union(*cells)) == 24
    for part in cells:  # what asks another method is fitted beside it, and so once
        asked = {(k, seed) for method, k, seed in part if method == "text-or-zero"}
        assert {
            (k, seed) for method, k, seed in part if method in ("probe", "random-init")
        } == asked
    alone = curves(world, settings=settings)
    assert found.points == alone.points and found.choices == alone.choices


def test_everything_is_there_once(result):
    cells = {(point.method, point.shots) for point in result.points}
    assert len(cells) == len(result.points) == len(SMALL.methods) * 3
    assert {(choice.method, choice.shots, choice.seed) for choice in result.choices} == set(
        result.predicted
    )
    with pytest.raises(KeyError, match="16 shots"):
        result.point("probe", 16)


def test_the_record_names_the_shots_and_what_they_chose(world, result):
    record = json.loads(json.dumps(result.record(), allow_nan=False))
    label_of = dict(zip(world.keys, world.train_labels.tolist(), strict=True))
    for by_class in record["shots"].values():
        assert [len(keys) for keys in by_class] == [4] * 5
        assert all(label_of[key] == number for number, keys in enumerate(by_class) for key in keys)
    probes = [choice for choice in record["choices"] if choice["method"] == "probe"]
    assert {choice["selected_on"] for choice in probes if choice["shots"] == 1} == {"fixed"}
    assert {choice["selected_on"] for choice in probes if choice["shots"] > 1} == {"support_cv"}
    assert all("delta" in choice["chosen"] for choice in probes)


def test_rows_keep_the_contract(result):
    rows = json.loads(
        json.dumps(result.rows("flowers", {"data": {"split": "test"}}), allow_nan=False)
    )
    for row in rows:
        assert set(row) == {"task", "kind", "metric", "value", "low", "high", "n", "protocol"}
        assert row["kind"] == "few_shot" and row["protocol"]["data"] == {"split": "test"}
        assert row["protocol"]["few_shot"]["selected_on"] != ["test"]
    assert len({row["metric"] for row in rows}) == len(rows)


def test_a_mean_per_class_task_is_scored_per_class(world):
    settings = FewShotSettings(shots=(2,), seeds=(0,), methods=("probe",), metric="mean_per_class")
    result = curves(world, settings=settings)
    labels = world.test_labels.numpy()
    hits = (result.predicted["probe", 2, 0] == labels).astype(float)
    assert result.points[0].value == pytest.approx(mean_per_class(hits, labels))
    # Of one draw: nothing is known of its luck.
    assert result.points[0].std is None and result.points[0].low is None
    (row,) = result.rows("flowers", {})
    assert row["protocol"]["few_shot"]["interval"].startswith("none: fewer than 3 draws")


def test_an_image_that_a_model_maps_to_zero_gets_the_lowest_class(world):
    test = world.test.float().clone()
    train = world.train.float().clone()
    test[3], train[::7] = 0.0, 0.0
    settings = FewShotSettings(
        shots=(1, 4), seeds=(0,), methods=("zero-shot", "probe", "random-init")
    )
    result = curves(world, train=train, test=test, settings=settings)
    assert {result.predicted["zero-shot", k, 0][3] for k in (1, 4)} == {0}
    blind = curves(
        world, train=torch.zeros_like(train), test=torch.zeros_like(test), settings=settings
    )
    for point in blind.points:  # a model that sees nothing gets one class right
        assert any(
            point.value == (world.test_labels == label).double().mean().item() for label in range(5)
        ), point


def test_three_draws_on_one_test_image_have_no_interval_and_the_record_names_the_reason(world):
    settings = FewShotSettings(shots=(1,), seeds=(0, 1, 2), methods=("zero-shot",))
    (row,) = curves(world, test_labels=[0], test=world.test[:1].float(), settings=settings).rows(
        "flowers", {}
    )
    assert (
        row["low"] is None
        and row["protocol"]["few_shot"]["interval"] == "none: too few items to say"
    )


def test_torch_and_numpy_are_both_welcome(world, result):
    same = curves(
        world,
        train=world.train.float(),
        test=world.test.float(),
        classifier=world.classifier.float().T,
        settings=FewShotSettings(shots=(2,), seeds=(0,), methods=("probe",)),
    )
    assert np.array_equal(same.predicted["probe", 2, 0], result.predicted["probe", 2, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": ()}, "different numbers"), ({"shots": (0, 1)}, "from 1 on"),
        ({"seeds": (1, 1)}, "all different"), ({"methods": ("prob",)}, "'prob'"),
        ({"metric": "auc"}, "top1 or mean_per_class"), ({"standard_errors": -1}, "0 or more"),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FewShotSettings(**changes)


def test_inputs_that_do_not_fit_are_refused(world):
    with pytest.raises(ValueError, match=r"test feature .* L2-normalized"):
        curves(world, test=2 * world.test.float())
    with pytest.raises(ValueError, match=r"training feature .* L2-normalized"):
        curves(world, train=world.train / 2)
    with pytest.raises(ValueError, match=r"expected \(n, d\), \(m, d\), \(d, C\)"):
        curves(world, classifier=world.classifier)
    with pytest.raises(ValueError, match="expected one each"):
        curves(world, test_labels=[0, 1])
