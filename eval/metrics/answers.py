"""Compare answers to questions about images, and score an answer against several annotators."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_WORDS)} | {"none": "0"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = {"a", "an", "the"}


def normalized(answer: str) -> str:
    """Return an answer in the form that is compared.

    It is in lower case, without articles and most punctuation, with digits for "none" and words up to ten. The
    rules are those of the VQA evaluation (vqaEval.py), which leaves answers as they are where all annotators agree. A
    punctuation mark becomes a space. It is dropped instead if it is next to a space anywhere in the answer, or if the
    answer has a number such as 1,000. A period is dropped unless a digit follows, so "U.S." is "us". Instead of its
    table of contractions, apostrophes are dropped.
    """
    given = answer.lower().replace("'", "")
    text, thousands = given, re.search(r"\d,\d", given)
    for mark in _PUNCTUATION:
        # Test the unmodified answer: replacing one mark must not affect another.
        apart = f"{mark} " in given or f" {mark}" in given
        text = text.replace(mark, "" if apart or thousands else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES]
    return " ".join(words)


def soft_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """Return the VQA accuracy of one answer (Antol et al. 2015, as computed by their evaluation).

    It is min(matches among the other annotators / 3, 1), averaged over leaving out each annotator once. With ten
    annotators, 1, 2, 3, 4 matches give 0.3, 0.6, 0.9, 1. With fewer than four, 3 is replaced by the number of others; a
    single annotator is compared directly.
    """
    if not annotators:
        raise ValueError("a question without annotators cannot be scored")
    wanted = normalized(answer)
    n, matching = len(annotators), sum(normalized(given) == wanted for given in annotators)
    if n == 1:
        return float(matching)
    # The left-out annotator either matches or does not; weight both cases by their numbers.
    enough = min(3, n - 1)
    with_match_left_out, with_other_left_out = min((matching - 1) / enough, 1), min(matching / enough, 1)
    return (matching * with_match_left_out + (n - matching) * with_other_left_out) / n
