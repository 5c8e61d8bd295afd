"""The fast searches equal the textbook ones."""

from hypothesis import given
from hypothesis import strategies as st

from open_diht.filters.spotting.common_run import longest_common_run, within_edits

FEW_LETTERS = st.text(alphabet="abc", max_size=14)


def textbook_longest_common_substring(left: str, right: str) -> int:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else 0
    return max(max(row) for row in table)


def textbook_edit_distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


@given(FEW_LETTERS, FEW_LETTERS)
def test_longest_common_run_is_the_textbook_one(left: str, right: str) -> None:
    length, in_left, in_right = longest_common_run(left, right)
    assert length == textbook_longest_common_substring(left, right)
    assert left[in_left : in_left + length] == right[in_right : in_right + length]


@given(FEW_LETTERS, FEW_LETTERS, st.integers(0, 4))
def test_within_edits_is_the_textbook_distance_or_none(left: str, right: str, most: int) -> None:
    distance = textbook_edit_distance(left, right)
    assert within_edits(left, right, most) == (distance if distance <= most else None)
