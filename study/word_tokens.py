"""Tokenize captions into ids of whole words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")  # letters and digits, with an apostrophe inside
PADDING = 0
UNKNOWN = 1
_SPECIAL = 2


def words_of(caption: str) -> list[str]:
    """Return the words of a caption in lower case. Digits count as letters."""
    return _WORD.findall(caption.lower())


def vocabulary(captions: Iterable[str]) -> list[str]:
    """Return the words that occur at least twice, most frequent first. Arms that are compared share
    a vocabulary."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    return sorted(
        (word for word, count in counts.items() if count >= 2),
        key=lambda word: (-counts[word], word),
    )


class WordTokenizer:
    """A tokenizer from captions to ids (n, context_length) int64, which truncates longer captions.
    Id 0 is padding, 1 is any word outside the vocabulary, and w + 2 is word w of it."""

    def __init__(self, words: Sequence[str], context_length: int):
        self.context_length = context_length
        self.vocab_size = len(words) + _SPECIAL
        self._ids = {word: number + _SPECIAL for number, word in enumerate(words)}

    def __call__(self, captions: Sequence[str]) -> Tensor:
        most = self.context_length
        known = self._ids
        padding = [PADDING] * self.context_length
        rows = []
        for caption in captions:
            found = [known.get(word, UNKNOWN) for word in words_of(caption)[:most]]
            rows.append(found + padding[len(found) :])
        # Also without captions.
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), most)
