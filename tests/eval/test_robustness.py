"""Effective robustness: nothing for a model on the curve, and what a model is ahead of it
otherwise."""

from typing import Any

import pytest

from open_diht.eval.robustness import _baseline, effective_robustness, expected_accuracy


def row(value: float | None, half: float = 0.004, metric: str = "top1") -> dict[str, Any]:
    ends = (None, None) if value is None else (value - half, value + half)
    return {"metric": metric, "value": value, "low": ends[0], "high": ends[1], "protocol": {}}


def test_a_model_on_the_curve_has_none_and_one_above_it_what_it_is_ahead():
    curve = _baseline()["sets"]["imagenetv2"]
    expected = expected_accuracy(0.76, curve)
    # ResNet-50, torchvision: about 63 to 64 % on V2.
    assert expected == pytest.approx(0.639, abs=0.01)
    (found,) = effective_robustness({"imagenet1k": row(0.76), "imagenetv2": row(expected)})
    assert (
        found.value == pytest.approx(0)
        and found.low is not None
        and found.low < 0 < (found.high or 0)
    )
    (ahead,) = effective_robustness({"imagenet1k": row(0.76), "imagenetv2": row(expected + 0.05)})
    assert ahead.value == pytest.approx(0.05) and ahead.task == "imagenetv2" and not ahead.beyond


def test_zero_shot_clip_is_ahead_where_it_is_known_to_be():
    """CLIP B/16 of OpenAI, by openclip_results.csv; 68.3 on ImageNet."""
    published = {
        "imagenet_r": 0.777,
        "imagenet_a": 0.5,
        "imagenet_sketch": 0.482,
        "imagenetv2": 0.619,
    }
    found = {
        one.task: one
        for one in effective_robustness(
            {"imagenet1k": row(0.683), **{k: row(v) for k, v in published.items()}}
        )
    }
    assert all(one.value > 2 * one.spread for one in found.values())
    assert found["imagenet_r"].value > 0.3 > found["imagenetv2"].value


def test_both_sets_vouch_for_the_interval():
    main = {"imagenet1k": row(0.7, 0.004), "imagenet_r": row(0.7, 0.005)}
    (one,) = effective_robustness(main)
    (other,) = effective_robustness({**main, "imagenet1k": row(0.7, 0.02)})
    assert one.high is not None and other.high is not None and one.high - one.value > 0.005
    assert other.high - other.value > one.high - one.value


@pytest.mark.parametrize("imagenet", [None, row(None), row(0.5, metric="mean_per_class")])
def test_without_imagenet_there_is_none(imagenet):
    main = {"imagenetv2": row(0.5)} | ({} if imagenet is None else {"imagenet1k": imagenet})
    assert effective_robustness(main) == []


def test_an_accuracy_beyond_that_of_the_models_behind_the_curve_is_said():
    (found,) = effective_robustness({"imagenet1k": row(0.2), "imagenetv2": row(0.1)})
    assert found.beyond
