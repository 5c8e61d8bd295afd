"""The score that a share of the rows reaches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.pipelines.stages.score.thresholds import kth_largest, rows_kept

SCORES = st.lists(st.one_of(st.floats(-1, 1, width=32), st.sampled_from([0.0, -0.0, 0.25])), min_size=1, max_size=40)


@given(scores=SCORES, data=st.data())
def test_the_kth_largest_is_that_of_a_sort_however_they_are_cut(scores: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scores)), max_size=3)))
    parts = np.split(np.array(scores, np.float32), cuts)
    assert kth_largest(lambda: parts, k) == np.sort(np.array(scores, np.float32))[::-1][k - 1]


@pytest.mark.parametrize(
    ("share", "rows", "kept"), [(0.3, 10, 3), (0.1, 30, 3), (0.3, 11, 4), (1.0, 7, 7), (0.01, 5, 1)]
)
def test_a_share_of_rows(share: float, rows: int, kept: int) -> None:
    assert rows_kept(share, rows) == kept


def test_of_no_rows_none_is_kept() -> None:
    assert rows_kept(0.3, 0) == 0
