"""Split words into the pieces of BERT's uncased vocabulary.

The result equals that of the package `tokenizers`, except for characters that are unassigned or new
in Unicode; the workers of the filters do not need the package for this alone
(`tests/filters/captions/test_wordpiece.py` compares them).
"""

import unicodedata
from collections.abc import Iterator, Sequence

PAD = "[PAD]"
UNKNOWN = "[UNK]"
BEGIN = "[CLS]"
END = "[SEP]"
_LONGEST = 100  # characters of a part of a word; longer ones are unknown, as in BERT
_CACHED = 40_000  # words, about 200 bytes each
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class WordPieces(dict[str, tuple[int, ...]]):
    """Cache: word -> the indices of its pieces in the vocabulary, which is a list of pieces."""

    def __init__(self, vocabulary: Sequence[str]):
        super().__init__()
        self.index = {piece: place for place, piece in enumerate(vocabulary)}
        self.unknown = self.index[UNKNOWN]

    def __missing__(self, word: str) -> tuple[int, ...]:
        if len(self) >= _CACHED:
            self.clear()
        found = self[word] = tuple(piece for part in _parts(word) for piece in self._pieces(part))
        return found

    def _pieces(self, part: str) -> list[int]:
        """Return a part's longest pieces, from left to right, or the unknown piece if none fits or
        it is too long."""
        found: list[int] = []
        start = 0
        while start < len(part) <= _LONGEST:
            for stop in range(len(part), start, -1):
                place = self.index.get(f"##{part[start:stop]}" if start else part[:stop])
                if place is not None:
                    found.append(place)
                    start = stop
                    break
            else:
                return [self.unknown]
        return found or [self.unknown]


def _parts(word: str) -> Iterator[str]:
    """Yield the lower-case parts of a word, without accents and control characters. A mark or
    ideograph is one part."""
    if not (word.isascii() and word.isalnum()):
        shown = "".join(" " if one.isspace() else one for one in word if _is_shown(one))
        bare = [
            one for one in unicodedata.normalize("NFD", shown) if unicodedata.category(one) != "Mn"
        ]
        word = "".join(f" {one} " if _is_a_part(one) else one.lower() for one in bare)
        yield from word.split()
    elif word:
        yield word.lower()


def _is_shown(character: str) -> bool:
    return character in "\t\n\r" or (
        character != "\ufffd" and unicodedata.category(character)[0] != "C"
    )


def _is_a_part(character: str) -> bool:
    """Return whether a character is a mark or an ideograph."""
    is_ascii_mark = character.isascii() and not character.isalnum() and not character.isspace()
    is_ideograph = any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)
    return is_ascii_mark or is_ideograph or unicodedata.category(character)[0] == "P"
