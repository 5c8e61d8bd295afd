"""The arms of weights: exact readings, and a strength chosen on pools and seeds of its own."""

from typing import Any

import numpy as np
import pytest

from open_diht.pipelines.select.soft import default_strength
from study.claims import weights
from study.rows import TUNING
from tests.study.claims.test_cat import Few

COLUMNS = {
    "score": np.random.default_rng(1).random(200),
    "cat": (np.arange(200) % 2).astype(np.float64),
}


@pytest.mark.parametrize("arm", ["score", "score-2", "cat", "score-cat", "strength-9"])
def test_arms_by_weights_have_the_budget_and_prefer_good_pairs(arm: str) -> None:
    times = weights.readings(COLUMNS, arm, 900, 3)
    assert times.sum() == 900
    column = COLUMNS["cat" if arm == "cat" else "score"]
    high = column > np.median(column) if arm != "cat" else column > 0
    assert times[high].mean() > 1.3 * times[~high].mean()


def test_verdicts_have_equal_sizes_and_no_weights() -> None:
    assert weights.readings(COLUMNS, "all", 900, 0).tolist() == [1] * 200
    assert weights.readings(COLUMNS, "strength-0", 900, 0).tolist() == [1] * 200
    kept = weights.readings(COLUMNS, "kept", 900, 0)
    best = weights.readings(COLUMNS, "best", 900, 0)
    assert kept.tolist() == COLUMNS["cat"].tolist() and best.sum() == kept.sum()
    assert COLUMNS["score"][best > 0].min() > COLUMNS["score"][best == 0].max()


def test_the_strength_is_tuned_on_pools_and_seeds_that_are_not_reported() -> None:
    data: Any = Few()
    planned = weights.arms("cpu", "full", data)
    tuning = [arm for arm in planned if arm.settings.get("stage") == TUNING]
    reported = [arm for arm in planned if arm not in tuning]
    for name in ("pool", "seed"):
        of_tuning, of_reported = ({getattr(arm, name) for arm in of} for of in (tuning, reported))
        assert of_tuning and of_reported and not of_tuning & of_reported
    assert not [arm for arm in weights.arms("cpu", "tiny", data) if arm.settings]


def test_the_rule_is_tested_on_seeds_that_chose_nothing() -> None:
    data: Any = Few()
    planned = weights.arms("cpu", "full", data)
    seeds = {arm.seed for arm in planned if arm.arm == "default"}
    assert len(seeds) == 5
    assert not seeds & {arm.seed for arm in planned if arm.arm == "score"}
    assert not seeds & {arm.seed for arm in planned if arm.settings}
    strength = default_strength(400 / 200)
    of_rule = weights.readings(COLUMNS, "default", 400, 3)
    assert of_rule.tolist() == weights.readings(COLUMNS, f"strength-{strength}", 400, 3).tolist()


def test_a_schedule_reads_by_strong_weights_first_and_then_all_alike() -> None:
    times, rows = weights.scheduled(COLUMNS, "schedule-9", 800, 3)
    assert np.bincount(rows, minlength=200).tolist() == times.tolist() and times.sum() == 800
    early, late = rows[:400], rows[400:]
    assert np.bincount(late, minlength=200).tolist() == [2] * 200
    high = COLUMNS["score"] > np.median(COLUMNS["score"])
    assert high[early].mean() > 0.8
    assert not np.array_equal(np.sort(early), early), "each half is in random order"
