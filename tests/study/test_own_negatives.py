"""Wrong pairs that a pool makes itself: what they are, and what a fit learns from them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from study.own_negatives import GENERIC, KINDS, NEAREST_OF, TEACHES, fit, make_negatives

MANY = 500
WORDS = [f"a person number {row} walks a dog" for row in range(MANY)]


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_negatives_are_what_their_kinds_say() -> None:
    images = unit(np.random.default_rng(0).normal(size=(MANY, 8)))
    read = [f"sign {row}" if row % 2 else "" for row in range(MANY)]
    made = make_negatives(WORDS, read, images)
    assert set(made.kind.tolist()) == set(KINDS) == set(TEACHES)
    assert len(set(made.row.tolist())) == len(made.row) > 0.95 * MANY
    near: list[float] = []
    far: list[float] = []
    for kind, row, caption in zip(
        made.kind.tolist(), made.row.tolist(), made.captions, strict=True
    ):
        assert caption and caption != WORDS[row]
        if kind == "repeated":
            assert caption == f"sign {row}"
        elif kind == "truncated":
            assert WORDS[row].startswith(f"{caption} ")
        elif kind == "generic":
            assert caption in GENERIC
        else:
            (near if kind == "neighbor" else far).append(
                float(images[row] @ images[WORDS.index(caption)])
            )
    assert np.mean(near) > np.mean(far) + 0.5
    assert max(np.unique(made.kind, return_counts=True)[1]) <= MANY / len(KINDS) + 1
    again = make_negatives(WORDS, read, images)
    assert again.captions == made.captions and again.row.tolist() == made.row.tolist()


def test_rows_without_text_or_words_make_no_negatives_of_these_kinds() -> None:
    made = make_negatives(["word"] * 50, [""] * 50, unit(np.ones((50, 4))))
    assert set(made.kind.tolist()) == {"generic"} and NEAREST_OF > 1


def test_a_fit_finds_the_coefficients_that_made_the_labels() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(20_000, 2)) * [1, 10] + [0, 5]
    pair = generator.random(len(rows)) < 1 / (
        1 + np.exp(-(2 * rows[:, 0] - 0.1 * (rows[:, 1] - 5)))
    )
    pairs, negatives = (
        {"a": part[:, 0], "b": part[:, 1], "c": np.ones(len(part))}
        for part in (rows[pair], rows[~pair])
    )
    found = fit(pairs, negatives, np.where(np.arange((~pair).sum()) % 2, "shuffled", "generic"), 0)
    assert found.names == ("a", "b"), "a constant feature is left out"
    true = np.array([2, -0.1])
    errors = found.errors / found.deviations
    assert np.all(np.abs(found.coefficients / found.deviations - true) < 4 * errors) and np.all(
        errors < [0.05, 0.005]
    )
    both = {"a": np.array([0.0, 1.0]), "b": np.array([5.0, 5.0])}
    low, high = found.log_odds(both)
    assert high - low == pytest.approx(
        found.contributions(both)[1, 0] - found.contributions(both)[0, 0]
    )
    assert high - low == pytest.approx(2, abs=0.2)


def test_kinds_weigh_the_same_however_many_there_are() -> None:
    generator = np.random.default_rng(0)
    pairs = {"a": generator.normal(size=4000), "b": generator.normal(size=4000)}
    few = 100
    many = 4000
    of = {
        "a": np.concatenate([generator.normal(-1, 1, few), generator.normal(0, 1, many)]),
        "b": np.concatenate([generator.normal(0, 1, few), generator.normal(-1, 1, many)]),
    }
    a, b = fit(pairs, of, np.array(["repeated"] * few + ["generic"] * many), 0).coefficients
    assert a == pytest.approx(b, rel=0.25)


def test_repeated_fits_learn_from_the_pool_s_own_wrong_pairs() -> None:
    generator = np.random.default_rng(0)
    wrong = np.arange(4000) < 1600
    pairs = {"score": generator.normal(2 * ~wrong), "style": generator.normal(2 * ~wrong)}
    negatives = {"score": generator.normal(size=4000), "style": pairs["style"]}
    once, often = (
        fit(pairs, negatives, np.full(4000, "shuffled"), rounds).log_odds(pairs)
        for rounds in (0, 2)
    )
    order = [np.argsort(odds) for odds in (once, often)]
    first, last = (wrong[each[:1600]].mean() for each in order)
    assert last > first + 0.02


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        fit({"a": np.array([1.0, value])}, {"a": np.zeros(2)}, np.array(["generic"] * 2))
    with pytest.raises(ValueError, match="0 negatives"):
        fit({"a": np.ones(2)}, {"a": np.zeros(0)}, np.array([], str))
