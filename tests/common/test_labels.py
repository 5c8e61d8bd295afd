"""Labels of a chart's lines keep clear of each other."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from open_diht.common.html import apart


@given(st.lists(st.floats(0, 200), max_size=8))
def test_labels_keep_their_order_and_their_distance(heights: list[float]) -> None:
    placed = apart(heights, 15.0, 200.0)
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    assert all(placed[here] - placed[before] >= 15 - 1e-9 for before, here in pairwise(order))
    assert all(height <= 200 for height in placed)


def test_labels_that_are_apart_stay_where_they_are() -> None:
    assert apart([100.0, 20.0, 60.0], 15.0, 200.0) == [100.0, 20.0, 60.0]
