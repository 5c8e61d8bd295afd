"""Shots are nested, named, and a function of seed and keys alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_diht.eval.fewshot.shots import ShotsMissing, draw_shots

KEYS = [f"{number:03}" for number in range(60)]
LABELS = [number % 3 for number in range(60)]


def test_k_shots_are_among_more():
    shots = draw_shots(KEYS, LABELS, 3, 16, seed=0)
    for k, more in ((1, 2), (2, 4), (4, 5), (5, 8), (8, 16)):
        assert set(shots.indices(k)) < set(shots.indices(more)) and len(shots.indices(k)) == 3 * k


def test_every_class_gives_k():
    shots = draw_shots(KEYS, LABELS, 3, 5, seed=0)
    assert np.bincount(np.array(LABELS)[shots.indices(5)]).tolist() == [5, 5, 5]
    assert shots.places(2).tolist() == [0, 1] * 3
    assert [[KEYS[index] for index in order] for order in shots.by_class] == [
        list(keys) for keys in shots.keys
    ]


@settings(deadline=None)
@given(st.permutations(range(60)), st.integers(0, 5))
def test_the_order_of_files_has_no_say(order, seed):
    shuffled = draw_shots([KEYS[i] for i in order], [LABELS[i] for i in order], 3, 4, seed)
    assert shuffled.keys == draw_shots(KEYS, LABELS, 3, 4, seed).keys


def test_other_samples_have_no_say():
    # A class more, or a sample more of another class, moves no shot.
    shots = draw_shots(KEYS, LABELS, 3, 4, seed=0)
    more = draw_shots([*KEYS, "x", "y"], [*LABELS, 3, 1], 4, 4, seed=0)
    assert more.keys[0] == shots.keys[0] and more.keys[2] == shots.keys[2]


def test_seeds_differ_and_the_draw_is_written_in_stone():
    assert draw_shots(KEYS, LABELS, 3, 2, seed=0).keys == STONE
    assert draw_shots(KEYS, LABELS, 3, 2, seed=1).keys != STONE


# A change here changes every few-shot number that was ever reported.
STONE = (("021", "003"), ("058", "028"), ("014", "017"))


def test_every_sample_is_as_likely():
    first = np.zeros(60)
    for seed in range(300):
        first[draw_shots(KEYS, LABELS, 3, 1, seed).indices(1)] += 1
    assert first.min() >= 3 and first.max() <= 32  # 15 expected of each


def test_a_small_class_gives_all_it_has():
    shots = draw_shots(["a", "b", "c"], [0, 0, 1], 2, 2, seed=0)
    assert (
        shots.short_classes(2) == [1]
        and shots.short_classes(1) == []
        and sorted(shots.indices(2)) == [0, 1, 2]
    )


def test_refusals():
    with pytest.raises(ShotsMissing, match="class 1"):
        draw_shots(["a"], [0], 2, 1, seed=0)
    with pytest.raises(ValueError, match="1 training keys are repeated"):
        draw_shots(["a", "a"], [0, 1], 2, 1, seed=0)
    with pytest.raises(ValueError, match="labels run from -1 to 0"):
        draw_shots(["a", "b"], [0, -1], 2, 1, seed=0)
    with pytest.raises(ValueError, match="2 keys"):
        draw_shots(["a", "b"], [0], 2, 1, seed=0)
    with pytest.raises(ValueError, match="0 shots"):
        draw_shots(["a"], [0], 1, 0, seed=0)
