"""The mix without labels: sizes, what arms choose by, and which negatives teach which feature."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from study.claims import mix, rivals
from study.claims.described import described, track_of
from study.own_negatives import TEACHES, fit
from study.rows import CPU
from study.training import Pairs, trained
from study.word_tokens import vocabulary

MANY = 400


@pytest.fixture
def choice() -> rivals.Choice:
    """400 pairs; the score falls with the row, and CAT keeps every third."""
    row = np.arange(MANY)
    scores = {name: -row.astype(float) for name in ("score", "negcliploss", "mix")}
    return rivals.Choice(
        pairs=Pairs(np.zeros((MANY, 2), np.float32), [str(one) for one in row], row),
        origin=np.full(MANY, "web"),
        injected=row % 5 == 0,
        filters={"cat": row % 3 == 0},
        scores=(scores,),
    )


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_arms_of_a_size_are_equally_large(choice: rivals.Choice, share: float) -> None:
    size = round(MANY * share)
    row = np.arange(MANY)
    for arm in ("random", "score", "negcliploss", "mix"):
        rows = mix.chosen(choice, arm, 0, share, None)
        assert len(set(rows.tolist())) == size and (
            arm == "random" or rows.tolist() == row[:size].tolist()
        )
    assert mix.chosen(choice, "self", 0, share, row.astype(float)).tolist() == row[-size:].tolist()
    cat = mix.chosen(choice, "cat-score", 0, share, None).tolist()
    kept = row[row % 3 == 0]
    rejected = row[row % 3 > 0]
    assert cat == sorted([*kept[:size], *rejected[: max(0, size - len(kept))]])
    one, other = (mix.chosen(choice, "random", seed, share, None).tolist() for seed in (0, 1))
    assert one != other


def test_ten_seeds_decide_and_all_comparisons_have_three() -> None:
    data: Any = SimpleNamespace(wanted=lambda *names: None)
    made = mix.arms(CPU, "full", data)
    assert len({arm.key for arm in made}) == len(made)
    for arm, least in (
        ("self-30", 10),
        ("score-30", 10),
        ("mix-30", 5),
        ("self-no-text-30", 3),
        ("self-60", 3),
    ):
        pools = {one.pool for one in made if one.arm == arm}
        assert pools == (
            {"lettered-0", "lettered-40"} if "text" in arm else {*described(mix.ABOUT)["pools"]}
        )
        assert all(
            len([one for one in made if (one.arm, one.pool) == (arm, pool)]) >= least
            for pool in pools
        )
    assert {arm.pool for arm in mix.arms(CPU, "tiny", data)} == {"natural", "lettered-40"}


@pytest.fixture
def candidates() -> rivals.Candidates:
    """600 pairs of eight kinds of images. Half of the images show the text of another caption."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, 8, 600)
    images = (np.eye(8)[kinds].repeat(160, axis=1) + 0.3 * random.normal(size=(600, 1280))).astype(
        np.float32
    )
    captions = [
        f"a person holds thing{kind} while it rains on {number} dogs"
        for number, kind in enumerate(kinds)
    ]
    pairs = Pairs(images, captions, np.arange(600))
    model = trained(
        track_of(mix.ABOUT, CPU).trainer,
        pairs,
        vocabulary(captions),
        budget=5120,
        seed=0,
        changed={},
    )
    shown = np.arange(600) % 2 == 0
    return rivals.Candidates(
        pairs=pairs,
        origin=np.full(600, "web"),
        injected=np.zeros(600, bool),
        in_pool=np.ones(600, bool),
        filters={},
        views={"score": images, "masked": images, "flipped": images},
        known={**rivals.facts(captions), "spotted": np.zeros(600), "area": shown * 0.2},
        scorers=(model,),
        lines=[
            (("quite another sentence about big houses", 0.99),) if show else ()
            for show in shown.tolist()
        ],
    )


def test_a_negative_differs_from_its_pair_only_in_what_its_kind_is_about(
    candidates: rivals.Candidates,
) -> None:
    pairs, negatives, kind = mix.examples(candidates, np.arange(600), candidates.scorers[0], 10_000)
    assert pairs.keys() == negatives.keys() == {*described(mix.ABOUT)["features"]}
    assert len(pairs["score"]) == 300, "half of the pool is left to compare with"
    for name in ("complexity", "actions"):
        changed = {
            one: float(np.mean(negatives[name][kind == one])) - pairs[name].mean()
            for one in TEACHES
        }
        assert (
            max(changed["truncated"], changed["generic"])
            < -0.2
            < 0.2
            > max(abs(changed[one]) for one in ("shuffled", "neighbor", "repeated"))
        )
    assert (
        negatives["spotted"][kind == "repeated"].all()
        and not negatives["spotted"][kind != "repeated"].any()
    )
    means = {one: negatives["score"][kind == one].mean() for one in TEACHES}
    assert means["shuffled"] < means["neighbor"] < pairs["score"].mean()
    fitted = fit(pairs, negatives, kind)
    weight: Callable[[str], float] = dict(
        zip(fitted.names, fitted.coefficients, strict=True)
    ).__getitem__
    assert weight("spotted") < 0 and weight("score") + weight("negcliploss") + weight("masked") > 0
