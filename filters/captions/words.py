"""Properties of a word that do not depend on its context, cached by word."""

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from open_diht.filters.captions.lexicon import (
    describing_words,
    noun_rating,
    verb_forms,
    verb_lemma,
    verb_rating,
)

COPULA = frozenset(
    {
        "be",
        "am",
        "is",
        "are",
        "was",
        "were",
        "been",
        "being",
        "'s",
        "'re",
        "'m",
        "’s",
        "’re",
        "’m",
        "ai",
    }
)
# Next to the values 0 to 3 of `NounRating.actor`.
UNRATED = -1
ACTOR = 3
UNKNOWN = (UNRATED, UNRATED)
PERSON = (ACTOR, 0)
_PERSON_WORDS = frozenset({"i", "he", "she", "they", "you", "we", "who", "him", "her", "them"})
_ENDS_OF_VERBS = frozenset("sdgSDG")  # of regular inflected forms
_ING = re.compile(r"[A-Za-z]{3,}ing")
_MEASURE = re.compile(
    r"(?:\d+[./x])*\d+[\"″']?-?(?:mm|cm|m|km|in|inch|inches|ft|feet|oz|ml|l|cl|g|kg|lbs?|w|v|k|gb|tb|hp"
    r"|pcs?|ct|packs?|pieces?"
    r"|sets?|parts?|doors?|lights?|seats?|seater|ply|way|tier|ports?)?\"?",
    re.I,
)
_YEAR = re.compile(r"(?:18|19|20)\d\d")
_CACHED = 40_000  # words, about 300 bytes each


Form = Literal["ing", "inflected", "base"]


class Word(NamedTuple):
    lower: str
    has_letter: bool
    group: str | None
    """See `descriptor_group`."""
    form: Form | None
    """The verb form that a noun or adjective may really be. A base form that is seldom another word
    is `inflected` as well; other base forms count only after a plural ("Rescuers help")."""
    seldom: bool
    """True if the verb states nothing visible, or a base form is usually another word; never if
    `form` is "ing" or None. The word then counts only directly after a word that can act
    ("Firefighters rescue", "Minister tweets")."""
    noun: tuple[int, int]
    """(can act, is a page word) as in `NounRating`; `PERSON` for `_PERSON_WORDS`, `UNKNOWN` for
    unrated words."""


class _KnownWords(dict[str, Word]):
    """Cache of words as a dict. Most words recur soon, so it need not track the order of use, which
    would be slower."""

    def __missing__(self, word: str) -> Word:
        if len(self) >= _CACHED:
            self.clear()
        lower = word.lower()
        has_letter = word[0].isalpha() or any(map(str.isalpha, word))
        noun = PERSON if lower in _PERSON_WORDS else noun_rating(lower) or UNKNOWN
        known = self[word] = Word(
            lower, has_letter, descriptor_group(word), *_form(word, lower), noun
        )
        return known


known_word: Callable[[str], Word] = _KnownWords().__getitem__
"""Return the properties of a word."""


def _form(word: str, lower: str) -> tuple[Form | None, bool]:
    if not (word[-1] in _ENDS_OF_VERBS or lower in verb_forms()) or lower in COPULA:
        return None, False
    if _ING.fullmatch(word):
        return "ing", False
    lemma = verb_lemma(lower)
    rating = verb_rating(lemma) if lemma else None
    if rating is None:
        return None, False
    if lemma != lower or rating.other_word <= 1:
        return "inflected", rating.visible == 0
    return "base", rating.visible == 0 or rating.other_word > 2


def descriptor_group(word: str) -> str | None:
    """Return the group of a word that describes by itself, or None. `number` is for measures, and
    for figures without commas that are not years from 1800 to 2099. `participle` is for inflected
    forms of rated verbs in -ed ("folded", not "bed")."""
    group = describing_words().get(word.lower())
    if group is None:
        if word[0].isdigit():
            return "number" if _MEASURE.fullmatch(word) and not _YEAR.fullmatch(word) else None
        if word[-2:] in ("ed", "ED") and verb_lemma(lower := word.lower()) not in (None, lower):
            return "participle"
    return group
