"""Words to numbers: in range, or refused with the word."""

from __future__ import annotations

import argparse

import pytest

from common.command_line import number
from common.fields import Positive, Share


def test_words_become_numbers() -> None:
    assert (number(Positive)("12"), number(Share)("0.25"), number(Share)("1")) == (12, 0.25, 1.0)


@pytest.mark.parametrize(
    ("hint", "word", "said"),
    [
        (Positive, "0", "the value is 0; it must be at least 1"),
        (Positive, "-5", "the value is -5; it must be at least 1"),
        (Positive, "9" * 20, "at most 2147483647"),
        (Positive, "9" * 9_999, "it must be a whole number"),
        (Positive, "1.5", "the value is '1.5'; it must be a whole number"),
        (Positive, "\u00b2", "it must be a whole number"),
        (Share, "nan", "the value is nan; it must be a number"),
        (Share, "inf", "it must be at least 0 and at most 1"),
        (Share, "few", "the value is 'few'; it must be a number"),
    ],
)
def test_what_is_no_such_number_is_refused(hint: object, word: str, said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=said) as error:
        number(hint)(word)
    assert len(str(error.value)) < 200
