"""The allotment of readings to groups: it uses all samples, and no other one is worth more."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.pipelines.select.repeats import allotted, per_row, worth

GROUPS = st.lists(st.tuples(st.integers(0, 50), st.floats(0, 9)), min_size=1, max_size=5).filter(
    lambda groups: any(rows for rows, _ in groups)
)
CAP = 6.0


@given(groups=GROUPS, fraction=st.floats(0.01, 1), data=st.data())
def test_no_other_allotment_is_worth_more(groups, fraction, data):
    rows, delays = map(np.array, zip(*groups, strict=True))
    samples = fraction * CAP * rows.sum()
    ours = allotted(rows, delays, samples, CAP)
    assert rows @ ours == pytest.approx(samples) and (ours >= 0).all() and (ours <= CAP).all()
    others = np.array(
        data.draw(st.lists(st.floats(0, CAP), min_size=len(rows), max_size=len(rows)))
    )
    if rows @ others > 1e-6:
        others *= samples / (rows @ others)  # as many samples
        if (others <= CAP).all():
            assert worth(rows, delays, ours) >= worth(rows, delays, others) * (1 - 1e-9)


def test_rejected_rows_enter_after_their_delay_and_are_then_read_as_often_again():
    rows = [100, 50, 50]
    delays = [0, 2, 5]
    assert allotted(rows, delays, 200, CAP).tolist() == pytest.approx([2, 0, 0])
    assert allotted(rows, delays, 350, CAP).tolist() == pytest.approx([3, 1, 0])
    assert allotted(rows, delays, 1200, CAP).tolist() == pytest.approx([6, 6, 6])


def test_what_is_left_of_a_mean_goes_to_the_best_rows():
    group = np.array([0, 1, 0, 0, 1, 0])
    value = np.array([1.0, 5, np.nan, 3, 2, 2])
    assert per_row(group, value, [2.5, 0.5]).tolist() == [2, 1, 2, 3, 0, 3]
    assert worth([3], [0], [1]) == pytest.approx(3)  # first readings of kept rows are the unit
