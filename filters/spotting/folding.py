"""Fold text for the overlap rule: bare lower-case letters and digits, with a map back to the
original.

OCR joins words, loses accents and changes case; captions hold full-width forms, ligatures and
zero-width marks. After folding, texts that differ only in these are the same string. Word
boundaries are kept, because the rule needs them.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final


@dataclass(frozen=True, slots=True)
class Folded:
    """A text without case, accents, punctuation and spaces."""

    chars: str
    """Letters and digits, and the marks that some scripts write vowels with."""
    starts: tuple[int, ...]
    """Index in `chars` where each word starts, and len(chars) at the end: word i is
    chars[starts[i]:starts[i + 1]]."""
    origins: tuple[int, ...]
    """For each character, the index of its source character in the original text."""

    def where(self, start: int, stop: int) -> tuple[int, int]:
        """Return the span (start, end) in the original text of chars[start:stop], which must not be
        empty. Combining marks and jamo after the last source character are left out."""
        return self.origins[start], self.origins[stop - 1] + 1

    def words(self) -> Iterator[str]:
        """Yield the folded words in order."""
        for start, stop in zip(self.starts, self.starts[1:], strict=False):
            yield self.chars[start:stop]


def fold(text: str) -> Folded:
    """Fold a text: NFKC, case-folded, without accents, only the characters of `Folded.chars`. Words
    end at anything else, except at invisible marks (soft hyphen, zero-width joiner). HTML entities
    such as `&amp;` count as spaces. Each ideograph, kana, or letter of a script written without
    spaces is a word by itself."""
    if "&" in text:
        text = _ENTITY.sub(lambda entity: " " * len(entity[0]), text)
    if text.isascii():
        lowered = text.lower()
        spans = [word.span() for word in _ASCII_WORD.finditer(lowered)]
        origins = [index for start, stop in spans for index in range(start, stop)]
        chars = "".join([lowered[start:stop] for start, stop in spans])
        starts = [0]
        for start, stop in spans:
            starts.append(starts[-1] + stop - start)
        return Folded(chars, tuple(starts), tuple(origins))
    return _fold_unicode(text)


def is_ideograph(char: str) -> bool:
    """Return whether a folded character is about a syllable or a word by itself: a Han ideograph or
    Hangul syllable."""
    return char >= "\u3400" and bool(_IDEOGRAPH.match(char))


_ENTITY: Final = re.compile(r"&(?:#\d{1,6}|#x[0-9a-fA-F]{1,6}|[a-zA-Z]{2,8});")
_ASCII_WORD: Final = re.compile(r"[a-z0-9]+")
_IDEOGRAPH: Final = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003134f]"
)
_UNSPACED: Final = (
    re.compile(  # Thai, Lao, Myanmar, Khmer, kana, Han: scripts that put no spaces between words
        "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
        "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"
    )
)
_SECOND_PARTS: Final = frozenset(
    "\u09be\u09d7\u0b3e\u0b56\u0b57\u0bbe\u0bd7\u0cc2\u0cd5\u0cd6\u0d3e\u0d57\u0dcf\u0ddf"
    "\u102e\u1b35\uff9e\uff9f"
    "\U00011127\U0001133e\U00011357\U000114b0\U000114ba\U000114bd\U000115af\U00011930"
)
"""Characters that Unicode composes with the one before, though it does not class them as combining:
the second parts of vowels of Indic scripts, and the voiced marks of half-width kana."""
_SEPARATOR: Final = "\0"


def _fold_unicode(text: str) -> Folded:
    chars: list[str] = []
    starts: list[int] = []
    origins: list[int] = []
    new_word = True
    for index, segment in _segments(text):
        for char in _fold_segment(segment):
            if char == _SEPARATOR:
                new_word = True
                continue
            alone = (
                char >= "\u0e00"
                and bool(_UNSPACED.match(char))
                and not unicodedata.category(char).startswith("M")
            )
            if new_word or alone:
                starts.append(len(chars))
            chars.append(char)
            origins.append(index)
            new_word = alone  # the character after an ideograph begins a word
    return Folded("".join(chars), (*starts, len(chars)), tuple(origins))


def _segments(text: str) -> Iterator[tuple[int, str]]:
    """Yield each base character with the combining marks, jamo and second parts after it, and its
    index, so that accented letters, syllables and vowels fold alike, composed or decomposed."""
    start = 0
    for index in range(1, len(text) + 1):
        if index == len(text) or not (
            unicodedata.combining(text[index])
            or "\u1160" <= text[index] <= "\u11ff"
            or (
                text[index] in _SECOND_PARTS
                and len(unicodedata.normalize("NFKC", text[start : index + 1])) == 1
            )
        ):
            yield start, text[start:index]
            start = index


@lru_cache(maxsize=1 << 16)
def _fold_segment(segment: str) -> str:
    """Return one segment's comparable characters: `_SEPARATOR` at a word's end, nothing for
    invisible marks."""
    if segment[0] in "\u2122\u2120":
        # The signs TM and SM, which normalization would make letters of the word before.
        return _SEPARATOR
    # Case folding may undo the normalization, so normalize again.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", segment).casefold())
    bare = "".join(
        char for char in unicodedata.normalize("NFD", folded) if not "\u0300" <= char <= "\u036f"
    )
    comparable = []
    for char in unicodedata.normalize("NFC", bare).translate(_STROKES):
        category = unicodedata.category(char)
        if category[0] in "LN" or (category[0] == "M" and not "\ufe00" <= char <= "\ufe0f"):
            comparable.append(char)
        elif category != "Cf" and category[0] != "M":
            comparable.append(_SEPARATOR)
    return "".join(comparable)


_STROKES: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "\u0131": "i", "æ": "ae", "œ": "oe"}
)
"""Letters that Unicode does not decompose -> how OCR and captions without accents write them."""
