"""How an answer is compared with those of ten people."""

from __future__ import annotations

from typing import Any

import pytest

from eval.metrics.answers import normalised, soft_accuracy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Two", "2"),
        ("a red  Bus.", "red bus"),
        ("the 1,000", "1000"),
        ("2.5", "2.5"),
        ("Yes!", "yes"),
        ("man's", "mans"),
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(given: Any, expected: Any) -> None:
    assert normalised(given) == expected


@pytest.mark.parametrize(("matching", "value"), [(0, 0.0), (1, 1 / 3), (2, 2 / 3), (3, 1.0), (10, 1.0)])
def test_three_of_ten_people_suffice(matching: Any, value: Any) -> None:
    assert soft_accuracy("yes", ["yes"] * matching + ["no"] * (10 - matching)) == pytest.approx(value)


def test_a_single_right_answer_counts_one() -> None:
    assert soft_accuracy("2", ["two"]) == 1.0
    with pytest.raises(ValueError, match="without annotators"):
        soft_accuracy("2", [])
