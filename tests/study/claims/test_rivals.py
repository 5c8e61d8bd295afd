"""The rivals: arms of one size, that choose by what their names say."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from study.claims import rivals
from study.claims.described import described, track_of
from study.rows import CPU
from study.training import Pairs, trained
from study.word_tokens import vocabulary

MANY = 400
SHARE = 0.3


@pytest.fixture
def choice() -> rivals.Choice:
    """400 pairs; the score of the first scorer falls with the row, that of the second rises."""
    row = np.arange(MANY)
    known = {"rules": row % 10 > 0, "ca": row % 3 > 0, "t": row % 2 == 0}
    fall = {
        name: -row.astype(float) for name in ("score", "negcliploss", "flipped", "masked", "mix")
    }
    return rivals.Choice(
        pairs=Pairs(np.zeros((MANY, 2), np.float32), [str(one) for one in row], row),
        origin=np.where(row % 5, "plain", "other"),
        injected=row % 5 == 0,
        filters={**known, "cat": known["ca"] & known["t"]},
        scores=(fall, {name: -key for name, key in fall.items()}),
    )


def test_all_arms_but_those_of_their_own_size_are_equally_large(choice: rivals.Choice) -> None:
    named = described(rivals.ABOUT)["pools"]["lettered-40"]
    sizes = {arm: len(rivals.chosen(choice, arm, 0, SHARE)) for arm in named}
    whole = {arm: sizes.pop(arm) for arm in ("all", "t-whole", "masked-whole")}
    assert set(sizes.values()) == {120} and whole == {
        "all": 400,
        "t-whole": 200,
        "masked-whole": 320,
    }


def test_the_strictest_filter_bounds_the_size(choice: rivals.Choice) -> None:
    few = {**choice.filters, "cat": np.arange(MANY) < 50}
    strict = rivals.Choice(**{**vars(choice), "filters": few})
    assert {
        len(rivals.chosen(strict, arm, 0, SHARE)) for arm in ("random", "score", "cat", "masked")
    } == {50}


@pytest.mark.parametrize("arm", ["rules", "ca", "t", "cat"])
def test_a_filter_s_arm_is_a_random_part_of_what_it_keeps(choice: rivals.Choice, arm: str) -> None:
    parts = [tuple(rivals.chosen(choice, arm, seed, SHARE)) for seed in range(3)]
    assert all(choice.filters[arm][list(part)].all() for part in parts) and len(set(parts)) == 3


def test_two_random_arms_draw_differently(choice: rivals.Choice) -> None:
    one, two = (set(rivals.chosen(choice, arm, 0, SHARE)) for arm in ("random", "random-2"))
    assert one != two and rivals.chosen(choice, "random", 0, SHARE).tolist() == sorted(one)


@pytest.mark.parametrize(
    ("arm", "first"), [(arm, first) for arm, (first, _) in rivals.RANKED.items()]
)
def test_a_score_keeps_the_best_of_what_the_filter_keeps(
    choice: rivals.Choice, arm: str, first: str | None
) -> None:
    kept = np.flatnonzero(choice.filters[first]) if first else np.arange(MANY)
    assert rivals.chosen(choice, arm, 0, SHARE).tolist() == kept[:120].tolist()
    # Another seed has another scorer, whose scores are the opposite.
    assert rivals.chosen(choice, arm, 1, SHARE).tolist() == kept[-120:].tolist()


def test_masking_removes_as_many_as_text_spotting_and_then_draws(choice: rivals.Choice) -> None:
    rows = rivals.chosen(choice, "masked", 0, SHARE)
    assert rows.max() < 200 and len(rows) == 120
    assert rivals.chosen(choice, "masked-whole", 0, SHARE).tolist() == list(range(320))


def test_separation_is_the_chance_that_a_true_pair_scores_higher() -> None:
    injected = np.array([True, True, False, False])
    assert rivals.separation(np.array([1.0, 3.0, 2.0, 4.0]), injected) == 0.75


def test_facts_are_those_of_the_product_s_own_filters() -> None:
    found = rivals.facts(
        ["a brown dog catches a red ball in the garden", "IMG_2034.jpg", "un chien brun court"]
    )
    assert found["actions"].tolist()[:2] == [1, 0] and found["complexity"][0] >= 1
    assert found["words"].tolist() == [10, 1, 4] and found["english"].tolist() == [1, 1, 0]


def test_the_mix_learns_which_annotation_tells_injected_pairs() -> None:
    random = np.random.default_rng(0)
    injected = random.random(300) < 0.5
    fit = {"noise": random.normal(size=300), "score": random.normal(size=300) - 2 * injected}
    other = {"noise": np.zeros(2), "score": np.array([-2.0, 0.5])}
    low, high = rivals.mixed(fit, injected, other)
    assert low < 0 < high


def test_a_scorer_gives_cosines_and_the_product_s_corrected_score() -> None:
    random = np.random.default_rng(0)
    kinds = random.integers(0, 8, 600)
    images = (np.eye(8)[kinds].repeat(160, axis=1) + 0.3 * random.normal(size=(600, 1280))).astype(
        np.float32
    )
    pairs = Pairs(images, [f"thing{kind} seen again" for kind in kinds], np.arange(600))
    trainer = track_of(rivals.ABOUT, CPU).trainer
    model = trained(trainer, pairs, vocabulary(pairs.captions), budget=5120, seed=0, changed={})
    found = rivals.scored(
        model, {"score": images, "flipped": images[:, ::-1].copy()}, pairs.captions
    )
    wrong = rivals.scored(model, {"score": np.roll(images, 1, axis=0)}, pairs.captions)
    assert np.abs(found["score"]).max() <= 1.001 and not np.allclose(
        found["score"], found["flipped"]
    )
    keys = np.concatenate([found["negcliploss"], wrong["negcliploss"]])
    assert rivals.separation(keys, np.arange(1200) >= 600) > 0.8


def test_every_comparison_has_two_random_baselines_and_enough_seeds() -> None:
    data: Any = SimpleNamespace(wanted=lambda *names: None)
    for scale, fewest in (("full", (5, 3)), ("quick", (3,)), ("tiny", (3,))):
        made = rivals.arms(CPU, scale, data)
        assert len({arm.key for arm in made}) == len(made)
        budgets = sorted({arm.budget for arm in made})
        for pool, budget in {(arm.pool, arm.budget) for arm in made}:
            named = described(rivals.ABOUT)["pools"][pool]
            assert {"all", "random", "random-2"} < set(named)
            seeds = [
                {
                    arm.seed
                    for arm in made
                    if (arm.pool, arm.budget, arm.arm) == (pool, budget, name)
                }
                for name in named
            ]
            assert all(
                each == seeds[0] and len(each) >= fewest[budgets.index(budget)] for each in seeds
            )


def test_a_study_that_is_stopped_has_three_seeds_of_all_pools_first() -> None:
    data: Any = SimpleNamespace(wanted=lambda *names: None)
    made = [arm for arm in rivals.arms(CPU, "full", data) if arm.budget == 17408]
    first = [arm.seed < 3 for arm in made]
    assert first == sorted(first, reverse=True) and first.count(True) * 2 == first.count(False) * 3
