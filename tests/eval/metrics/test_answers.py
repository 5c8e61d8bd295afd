"""How an answer is compared with those of ten people."""

from __future__ import annotations

from typing import Any

import pytest

from open_diht.eval.metrics.answers import normalized, soft_accuracy


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Two", "2"),
        ("a red  Bus.", "red bus"),
        ("the 1,000", "1000"),
        ("2.5", "2.5"),
        ("Yes!", "yes"),
        ("man's", "mans"),
        ("U.S.", "us"),
        ("u.s.a", "usa"),
        ("no.", "no"),
        (".5", ".5"),
        ("5.", "5"),
        ("black-white", "black white"),
        ("black - white", "black white"),
        ("red, t-shirt", "red t shirt"),
        ("1,000 t-shirts", "1000 tshirts"),
        ("10:30", "10:30"),
        ("zero", "0"),
        ("none", "0"),
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(given: Any, expected: Any) -> None:
    assert normalized(given) == expected


@pytest.mark.parametrize(("matching", "value"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_of_ten_people_each_is_left_out_once(matching: Any, value: Any) -> None:
    assert soft_accuracy("yes", ["yes"] * matching + ["no"] * (10 - matching)) == pytest.approx(value)


def test_with_few_people_all_of_the_others_are_enough() -> None:
    assert soft_accuracy("2", ["two"]) == 1.0 and soft_accuracy("3", ["two"]) == 0.0
    assert soft_accuracy("2", ["two", "2"]) == 1.0 and soft_accuracy("2", ["two", "3"]) == 0.5
    assert soft_accuracy("2", ["two", "2", "3"]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="without annotators"):
        soft_accuracy("2", [])
