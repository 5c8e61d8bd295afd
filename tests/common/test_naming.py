"""Words of messages: the nearest name, and counts that agree with their noun."""

import pytest

from open_diht.common.naming import counted, nearest


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 units"), (1, "1 unit"), (2, "2 units"), (1_000, "1,000 units")]
)
def test_a_count_agrees_with_its_noun(count: int, said: str) -> None:
    assert counted(count, "unit") == said


def test_the_nearest_name_is_said_where_one_is_near() -> None:
    assert nearest("Papr", ["paper", "strict"]) == " (did you mean 'paper'?)"
    assert nearest("zzz", ["paper", "strict"]) == ""
