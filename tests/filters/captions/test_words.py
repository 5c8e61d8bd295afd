"""What words say by themselves: what they describe, which verbs they may be, whether they can
act."""

import pytest

from open_diht.filters.captions.words import PERSON, UNKNOWN, known_word


@pytest.mark.parametrize(
    ("word", "group"),
    [
        ("Red", "colour"), ("WOODEN", "material"), ("500ml", "number"), ("3", "number"),
        ("2019", None), ("42nd", None), ("climbed", "participle"),
        *((word, None) for word in ("bed", "feed", "Need", "SHED")), ("table", None),
    ],
)  # fmt: skip
def test_what_a_word_describes(word, group):
    assert known_word(word).group == group


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("Riding", "ing"),
        ("climbs", "inflected"),
        ("swam", "inflected"),
        ("is", None),
        ("table", None),
        ("ing", None),
    ],
)
def test_as_what_form_of_a_verb_a_noun_may_be_read(word, form):
    assert known_word(word).form == form


def test_who_can_act_and_what_is_unknown():
    assert known_word("She").noun == PERSON
    assert known_word("dogs").noun[0] == 3 and known_word("Table").noun[0] < 3
    assert known_word("qqq").noun == UNKNOWN


@pytest.mark.parametrize(
    ("word", "has_letter"), [("a1", True), ("1a", True), ("犬", True), ("12", False), ("-", False)]
)
def test_letters(word, has_letter):
    assert known_word(word).has_letter == has_letter
