"""The passes over all rows: their random order, its beginning, and the score that a fraction of
them reaches."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from open_diht.pipelines.stages.score.passes import (
    PARTS,
    ROW,
    first_rows,
    kth_largest,
    random_order,
    rows_kept,
)

UIDS = [hashlib.md5(str(n).encode()).hexdigest() for n in range(500)]


def _units(cut: int, seed: int = 0) -> list[NDArray[np.void]]:
    """The rows in units of so many, each sorted as stage `score_rows` writes them."""
    found = []
    for first in range(0, len(UIDS), cut):
        uids = UIDS[first : first + cut]
        rows = np.zeros(len(uids), ROW)
        rows["high"], rows["low"] = random_order(uids, seed).T
        rows["ordinal"] = np.arange(len(uids))
        found.append(np.sort(rows, order=["high", "low", "ordinal"]))
    return found


def _first(cut: int, count: int, seed: int = 0) -> list[int]:
    units = _units(cut, seed)

    def read(name: str, first: int, stop: int) -> NDArray[np.void]:
        rows = units[int(name)]
        parts = rows["high"] >> np.uint64(56)
        return rows[(parts >= first) & (parts < stop)]

    names = [(number, str(number)) for number in range(len(units))]
    found = first_rows(names, read, count, len(UIDS))
    return [int(row["unit"]) * cut + int(row["ordinal"]) for row in found]


@pytest.mark.parametrize("count", [0, 1, 60, 499, 500, 900])
def test_the_first_rows_are_those_of_a_sort_whatever_the_units(count: int) -> None:
    order = np.lexsort(random_order(UIDS, 0).T[::-1]).tolist()
    assert _first(500, count) == _first(37, count) == _first(7, count) == order[:count]


def test_another_seed_gives_another_order_as_even_as_the_first() -> None:
    assert set(_first(500, 250, 0)) != set(_first(500, 250, 1))
    sequential = [f"{n:032x}" for n in range(4096)]  # a manifest's own uids may be numbers
    for seed in (0, 1):
        parts = (random_order(sequential, seed)[:, 0] >> np.uint64(56)).astype(int)
        assert np.bincount(parts, minlength=PARTS).max() < 50


def test_rows_of_one_uid_come_in_the_order_of_the_input() -> None:
    rows = np.zeros(3, ROW)
    rows["ordinal"] = [0, 1, 2]
    found = first_rows(
        [(0, "a"), (1, "b")], lambda name, first, stop: rows if first == 0 else rows[:0], 6, 6
    )
    assert [(int(row["unit"]), int(row["ordinal"])) for row in found] == [
        (u, o) for u in (0, 1) for o in (0, 1, 2)
    ]


SCORES = st.lists(
    st.one_of(st.floats(-1, 1, width=32), st.sampled_from([0.0, -0.0, 0.25])),
    min_size=1,
    max_size=40,
)


@given(scores=SCORES, data=st.data())
def test_the_kth_largest_is_that_of_a_sort_however_they_are_cut(
    scores: list[float], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(scores)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scores)), max_size=3)))
    parts = np.split(np.array(scores, np.float32), cuts)
    assert kth_largest(lambda: parts, k) == np.sort(np.array(scores, np.float32))[::-1][k - 1]


@pytest.mark.parametrize(
    ("share", "rows", "kept"),
    [
        (0.3, 10, 3),
        (0.1, 30, 3),
        (0.3, 11, 4),
        (1.0, 7, 7),
        (0.01, 5, 1),
        (0.3, 0, 0),
        (1e-12, 100, 1),
    ],
)
def test_a_share_of_rows(share: float, rows: int, kept: int) -> None:
    assert rows_kept(share, rows) == kept
