"""Rated words: how likely a verb states a visible action, whether a noun can act, colors,
materials.

Ratings of verbs and nouns come from two sources: words that were read one by one, and more words
from WordNet that a model of those ratings rated ("wide"). If a word has both, the rating by reading
counts (see README.md next to the tables). The first names come from the US census of 1990.
"""

from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files
from typing import NamedTuple

_ENDINGS = {
    "s": (("ies", ("y",)), ("es", ("e", "")), ("s", ("",))),
    "d": (("ied", ("y",)), ("ed", ("e", ""))),
    "g": (("ing", ("e", "")),),
}
"""Inflected endings by their last letter, with the possible endings of the base form."""
_PLURALS = {
    "s": (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", "")),
    "n": (("men", "man"), ("children", "child")),
}
"""Plural endings by their last letter, with the singular endings."""


class VerbRating(NamedTuple):
    """Ratings of a verb, 0 to 3 each."""

    visible: int
    """How likely a caption with this verb states something visible."""
    shop: int
    """How typical the word is of product, shop and page text."""
    other_word: int
    """How often its forms are a noun, an adjective or part of a name."""


class NounRating(NamedTuple):
    """How much a noun can act in an image, and how typical it is of page text."""

    actor: int
    """0 abstract or page word, 1 inert thing, 2 moves or is visibly affected, 3 person, animal,
    team or vehicle."""
    shop: int
    """0 to 2: how typical it is as the head of a product or page text."""


def _lines(name: str) -> list[list[str]]:
    text = files(__name__).joinpath(name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]


def _wide(name: str) -> dict[str, list[int]]:
    """Return word -> ratings, from a table whose lines list words with the same ratings."""
    return {
        word: [int(one) for one in ratings]
        for *ratings, listed in _lines(name)
        for word in listed.split()
    }


@cache
def _read_verbs() -> dict[str, VerbRating]:
    return {lemma: VerbRating(*map(int, ratings)) for lemma, *ratings in _lines("verbs.tsv")}


@cache
def _verbs() -> dict[str, VerbRating]:
    return {
        lemma: VerbRating(*ratings) for lemma, ratings in _wide("wide_verbs.tsv").items()
    } | _read_verbs()


@cache
def _irregular() -> dict[str, str]:
    return {form: lemma for form, lemma in _lines("irregular_verbs.tsv") if lemma in _verbs()}


@cache
def _nouns() -> dict[str, NounRating]:
    read = {lemma: map(int, ratings) for lemma, *ratings in _lines("nouns.tsv")}
    return {
        lemma: NounRating(*ratings) for lemma, ratings in (_wide("wide_nouns.tsv") | read).items()
    }


@cache
def first_names() -> frozenset[str]:
    """Return common first names, in lower case."""
    return frozenset(line[0] for line in _lines("first_names.tsv"))


@cache
def words(group: str) -> frozenset[str]:
    """Return the words of a group of `attributes.tsv`: colour, material, size, state or pattern."""
    return frozenset(
        word
        for name, *rest in _lines("attributes.tsv")
        if name == group
        for word in rest[0].split()
    )


@cache
def describing_words() -> dict[str, str]:
    """Return lower-case words that describe a nearby object, with their group: those of
    `attributes.tsv`, and shapes, wearers, counts, qualities and more from `describing.tsv`."""
    tables = (_lines("describing.tsv"), _lines("attributes.tsv"))
    return {word: group for table in tables for group, listed in table for word in listed.split()}


@cache
def verb_forms() -> frozenset[str]:
    """Return base forms and irregular forms of the rated verbs, in lower case."""
    return frozenset({*_verbs(), *_irregular()})


@lru_cache(maxsize=20_000)
def verb_lemma(form: str) -> str | None:
    """Return the rated verb that the lower-case `form` inflects, or None. An irregular form belongs
    to its own verb ("found" to find). If a regular form has several verbs, one rated by reading is
    preferred ("singing" is a form of sing, not of singe)."""
    if form in _irregular():
        return _irregular()[form]
    rated = list(filter(_verbs().__contains__, _may_inflect(form)))
    return next(filter(_read_verbs().__contains__, rated), rated[0]) if rated else None


def _may_inflect(form: str) -> Iterator[str]:
    """Yield the possible base forms of a regular form, itself first."""
    yield form
    for ending, repairs in _ENDINGS.get(form[-1:], ()):
        if form.endswith(ending) and len(form) > len(ending) + 1:
            stem = form[: -len(ending)]
            for repair in repairs:
                yield stem + repair
            if len(stem) > 2 and stem[-1] == stem[-2]:
                yield stem[:-1]


def verb_rating(lemma: str) -> VerbRating | None:
    return _verbs().get(lemma)


def noun_rating(word: str) -> NounRating | None:
    """Return the rating of a lower-case noun, singular or in a plural of `_PLURALS`. Return None
    for an unrated one."""
    nouns = _nouns()
    if rating := nouns.get(word):
        return rating
    for ending, singular in _PLURALS.get(word[-1:], ()):
        if word.endswith(ending) and (rating := nouns.get(word[: -len(ending)] + singular)):
            return rating
    return None


def is_first_name(word: str) -> bool:
    """Return whether the lower-case word is a common first name."""
    return word in first_names()
