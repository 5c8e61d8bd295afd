"""The tables load, their ratings lie in range, inflections find their words."""

import pytest

from open_diht.filters.captions import lexicon
from open_diht.filters.captions.lexicon import (
    is_first_name,
    noun_rating,
    verb_lemma,
    verb_rating,
    words,
)


@pytest.mark.parametrize(
    ("form", "lemma"),
    [
        ("run", "run"), ("runs", "run"), ("running", "run"), ("ran", "run"), ("riding", "ride"),
        ("carried", "carry"), ("carries", "carry"), ("watches", "watch"), ("dancing", "dance"),
        ("sat", "sit"), ("ate", "eat"), ("qqqing", None), ("ing", None), ("s", None), ("", None),
        ("Running", None),  # lower case is the caller's business
    ],
)  # fmt: skip
def test_verb_lemma(form, lemma):
    assert verb_lemma(form) == lemma


def test_ratings_lie_in_range():
    for verb, rating in lexicon._verbs().items():
        assert verb == verb.lower() and all(0 <= value <= 3 for value in rating), verb
    for noun, noun_rates in lexicon._nouns().items():
        assert noun == noun.lower() and 0 <= noun_rates.actor <= 3 and 0 <= noun_rates.shop <= 2, (
            noun
        )


def test_every_lemma_is_rated():
    assert all(verb_rating(lemma) for lemma in lexicon._irregular().values())
    assert verb_rating("qqq") is None


@pytest.mark.parametrize(
    ("word", "actor"),
    [
        ("dog", 3),
        ("dogs", 3),
        ("woman", 3),
        ("women", 3),
        ("children", 3),
        ("babies", 3),
        ("wolves", 3),
        ("wives", 3),
    ],
)
def test_who_can_act(word, actor):
    rating = noun_rating(word)
    assert rating is not None and rating.actor == actor
    assert not any(map(noun_rating, ("", "qqq", "s")))


def test_first_names():
    assert is_first_name("mary") and not is_first_name("table") and not is_first_name("")


@pytest.mark.parametrize(
    ("group", "word"),
    [
        ("colour", "red"),
        ("material", "wooden"),
        ("size", "small"),
        ("state", "broken"),
        ("pattern", "striped"),
    ],
)
def test_groups(group, word):
    assert word in words(group)
    assert all(entry == entry.lower() for entry in words(group)) and words("qqq") == frozenset()
