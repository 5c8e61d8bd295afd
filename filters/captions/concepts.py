"""Names of the concepts in a caption: its objects and attributes as base forms, so that equal
things have equal names.

The annotations of the filter hold words as in the parsed text ("Black horses", "evening sun").
Here they become lower-case base forms ("horse", "black"). A compound object has several names, from
its last three words to its head ("evening sun", "sun").

Base forms come from the lemma tables of the spaCy model (from WordNet): first the exceptions, then
the suffix rules if they lead to a known word (known adjectives stay as they are), otherwise the
word itself. No tagger runs, because the words are known to be nouns and adjectives.
"""

import re
from collections.abc import Collection
from functools import cache, lru_cache
from typing import Any

from open_diht.filters.captions.parse import load_model

MAX_WORDS = 3
"""Most words in the name of an object; longer compounds are product names and lists."""
_EDGES = re.compile(r"^[^\w]+|[^\w]+$")
_POSSESSIVE = re.compile(r"['’]s?$")
_PRONOUNS = frozenset(
    ["i", "he", "she", "they", "we", "you", "who", "him", "her", "them", "it", "me", "us"]
)
_SHORTEST = 3  # shorter base forms are errors ("bus" is not a plural of "bu")
# A rule makes other known words of them.
_SINGULAR = frozenset(["species", "corps", "kansas", "laos", "mars", "wales"])
# Most words repeat. Not measured: the number bounds the memory of a worker.
_CACHED = 200_000


class ConceptNames:
    """Maps words to concepts. See `concept_names`."""

    def __init__(self) -> None:
        without_the_rest = ["ner", "tagger", "parser", "tok2vec", "attribute_ruler", "senter"]
        lookups: Any = load_model(exclude=without_the_rest).get_pipe("lemmatizer").lookups  # type: ignore[attr-defined]
        self._tables = {
            kind: tuple(
                lookups.get_table(f"lemma_{part}")[kind] for part in ("rules", "exc", "index")
            )
            for kind in ("noun", "adj")
        }
        # The longer base comes first: "cutest" is of "cute", as "cut" would double its last letter.
        rules, *others = self._tables["adj"]
        self._tables["adj"] = sorted(rules, key=lambda rule: len(rule[0]) - len(rule[1])), *others
        self.object = lru_cache(_CACHED)(self._object)
        self.attribute = lru_cache(_CACHED)(self._attribute)

    def _object(self, text: str) -> tuple[str, ...]:
        """Return an object's names, longest first, head last. Personal pronouns and heads without
        letters have none."""
        words = [word for word in map(_plain, text.split()) if word]
        if not words or words[-1] in _PRONOUNS or not any(char.isalpha() for char in words[-1]):
            return ()
        words[-1] = self._base(words[-1], "noun")
        return tuple(
            " ".join(words[first:]) for first in range(max(0, len(words) - MAX_WORDS), len(words))
        )

    def _attribute(self, text: str) -> str | None:
        """Return the name of an attribute. Return None for a word with digits or without
        letters."""
        word = _plain(text)
        if not any(char.isalpha() for char in word) or any(char.isdigit() for char in word):
            return None
        return self._base(word, "adj")

    def _base(self, word: str, kind: str) -> str:
        rules, exceptions, index = self._tables[kind]
        if exceptions.get(word):
            return str(exceptions[word][0])
        if word in index if kind == "adj" else word.endswith("ss") or word in _SINGULAR:
            # a known adjective is its own base form, and no noun in -ss is a plural ("pass" of
            # "pas")
            return word
        for ending, instead in rules:
            base = word[: len(word) - len(ending)] + instead
            if word.endswith(ending) and len(base) >= _SHORTEST and base in index:
                return base
        return word

    def objects(self, texts: Collection[str | None]) -> set[str]:
        return {name for text in texts if text for name in self.object(text)}

    def attributes(self, texts: Collection[str | None]) -> set[str]:
        return {name for text in texts if text and (name := self.attribute(text)) is not None}


@cache
def concept_names() -> ConceptNames:
    """Return the one instance of this process."""
    return ConceptNames()


def _plain(word: str) -> str:
    return _POSSESSIVE.sub("", _EDGES.sub("", word.lower()))
