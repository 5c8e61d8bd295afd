"""Answers to questions about pictures: how they are compared, and how far people agree with one."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(value) for value, word in enumerate(_WORDS)}
_ARTICLES = {"a", "an", "the"}


def normalised(answer: str) -> str:
    """An answer as it is compared: lower case, no articles, no punctuation but inside numbers, digits for words up to
    ten. The rules are those of the VQA evaluation, without its table of contractions."""
    text = re.sub(r"(?<=\d),(?=\d)", "", answer.lower().replace("'", ""))
    text = re.sub(r"(?!(?<=\d)[.:](?=\d))[^\w\s]", " ", text)
    words = [_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES]
    return " ".join(words)


def soft_accuracy(answer: str, annotators: Sequence[str]) -> float:
    """min(matching annotators / 3, 1), the VQA accuracy of one answer; with fewer than three annotators their number
    takes the place of 3, so that a single right answer counts 1. Raises ValueError without annotators."""
    if not annotators:
        raise ValueError("a question without annotators cannot be scored")
    wanted = normalised(answer)
    matching = sum(normalised(given) == wanted for given in annotators)
    return min(matching / min(3, len(annotators)), 1.0)
