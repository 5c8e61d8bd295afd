"""Answers to questions about images: how they are compared, and how far people agree with one."""

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
    """The VQA accuracy of one answer: min(matches among the other annotators / 3, 1), leaving out each annotator once,
    on average. Of ten, 1, 2, 3, 4 matches give 0.3, 0.6, 0.9, 1 (Antol et al. 2015, as their evaluation computes it).

    With fewer than four annotators, the others of one take the place of 3, and a single one is compared with. Raises
    ValueError without annotators."""
    if not annotators:
        raise ValueError("a question without annotators cannot be scored")
    wanted = normalised(answer)
    n, matching = len(annotators), sum(normalised(given) == wanted for given in annotators)
    if n == 1:
        return float(matching)
    enough = min(3, n - 1)
    with_match_left_out, with_other_left_out = min((matching - 1) / enough, 1), min(matching / enough, 1)
    return (matching * with_match_left_out + (n - matching) * with_other_left_out) / n
