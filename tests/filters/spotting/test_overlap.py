"""The T rule: what is an overlap of caption and image text, and what only looks like one."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_diht.filters.spotting.folding import Folded, fold
from open_diht.filters.spotting.overlap import (
    LEAST_CHANCE,
    PAPER,
    TOLERANT,
    _Caption,
    _is_another_text,
    overlap,
    overlap_lengths,
    within_edits,
    word_chances,
)

HITS = [  # caption, OCR string: pairs seen in real images, with the errors OCR really made
    ("No parking sign on a brick wall", "NOPARKING"),
    ("Keep Calm and Carry On poster", "KEEPCALM"),
    ("Las Vegas sign at night", "LASVEGASN"),
    ("Carlsberg beer in a glass", "arlsberg"),
    ("Wivenhoe Park road sign", "Wivenioe rark"),
    ("2008 Yamaha YZF R6", "YAMAMA"),
    ("Double parking prohibited at all times", "AT ALL,TIMES"),
    ("Nirvana - Nevermind (1991)", "NlRVANA"),
    ("LEGO Star Wars 75192", "LEG0 5TAR WAR5"),
    ("BMW X5 M, 2015", "BMW X5"),
    ("Café Société in Paris", "CAFE SOCIETE"),
    ("\uff2e\uff49\uff4e\uff54\uff45\uff4e\uff44\uff4f Switch", "Nintendo"),
    ("don't panic", "DONT PANIC"),
    ("北京大学的校门", "北京大学"),
    ("서울특별시 시청", "서울특별시"),
    ("Москва слезам не верит", "Москва".upper()),
    ("house", "HOUSE"),
]
MISSES = [
    ("the other side of the hill", "MOTHER"),  # a word inside a word
    ("international station", "NATION"),
    ("a nation of gardeners", "FOUNDATION DONATION"),
    ("a vintage black and white photo of a house", "BLACK FRIDAY"),  # one common word of many
    ("photo of the two dogs in a field", "OF THE"),
    ("a horse in a stable near a river", "HOUSE"),  # another word, not a misread one
    ("call 5551234567 for a table", "5551234568"),  # a wrong digit is another number
    ("red car", "CAR"),  # too short
    ("", "TEXT"),
    ("caption", ""),
    ("one ☕", "☕"),
]


@pytest.mark.parametrize(("caption", "text"), HITS)
def test_overlaps(caption, text):
    found = overlap(caption, [(text, 0.9)])
    assert found.length >= TOLERANT.min_chars and found.text == text and found.score == 0.9
    assert found.where is not None


@pytest.mark.parametrize(("caption", "text"), MISSES)
def test_accidents(caption, text):
    assert overlap(caption, [(text, 0.99)]).length < TOLERANT.min_chars


def test_where_points_into_the_original_caption():
    caption = "At the Café  Société, Paris"
    found = overlap(caption, [("CAFESOCIETE", 0.9)])
    assert found.where is not None
    assert caption[slice(*found.where)] == "Café  Société"


def test_common_words_count_where_they_are_most_of_the_caption():
    assert overlap("black house", [("BLACK", 0.9)]).length == 5
    assert overlap("a black house in the garden of a farm", [("BLACK", 0.9)]).length == 0


def test_low_scores_are_ignored():
    assert overlap("Carlsberg", [("Carlsberg", 0.79)]).length == 0
    assert overlap("Carlsberg", [("Carlsberg", 0.8)]).length == 9


@pytest.mark.parametrize("score", [number / 20 for number in range(1, 20)])
def test_a_score_that_equals_the_minimum_counts_also_as_it_is_stored(score):
    rule = replace(PAPER, min_score=score)
    for stored in (score, float(np.float32(score))):
        assert overlap("a brown dog", [("brown dog", stored)], rule).length > 0
    assert overlap("a brown dog", [("brown dog", score - 0.00002)], rule).length == 0


def test_the_longest_match_wins():
    found = overlap("Carlsberg Elephant beer", [("Carlsberg", 0.99), ("Carlsberg Elephant", 0.85)])
    assert (found.length, found.text, found.score) == (17, "Carlsberg Elephant", 0.85)


def test_units():
    caption = "Keep calm and drive a Wartburg"
    lines = [("KEEP", 0.9), ("CALM", 0.85)]
    assert overlap(caption, lines, PAPER).length == 4
    joined = overlap(caption, lines, replace(PAPER, unit="joined"))
    assert (joined.length, joined.text, joined.score) == (8, "KEEP CALM", 0.85)
    assert (
        overlap("drive a Wartburg", [("A WARTBURG", 0.9)], replace(PAPER, unit="word")).length == 8
    )


@pytest.mark.parametrize(("edits", "length"), [(((6, 2),), 4), (((6, 1),), 0), ((), 0)])
def test_a_string_may_lack_as_many_letters_as_edits_allow(edits, length):
    rule = replace(TOLERANT, min_chars=4, edits=edits)
    assert overlap("zebras", [("zbrs", 0.9)], rule).length == length


def test_every_caption_has_its_strings():
    with pytest.raises(ValueError, match="2 captions and 1 lists"):
        overlap_lengths(["a", "b"], [[]])


WORDS = st.sampled_from(
    [
        "the", "of", "a", "black", "house", "other", "mother", "nation", "wartburg", "wartbrug",
        "carlsberg", "2015", "x5", "北京",
    ]
)  # fmt: skip
PHRASE = st.lists(WORDS, max_size=7).map(" ".join)
SPOTTED = st.lists(st.tuples(PHRASE, st.sampled_from([0.5, 0.8, 0.95])), max_size=4)
RULES = st.sampled_from(
    [PAPER, TOLERANT, replace(TOLERANT, unit="word"), replace(TOLERANT, common_chance=0)]
)


@given(PHRASE, SPOTTED, RULES)
def test_case_and_punctuation_do_not_matter(caption, spotted, rule):
    loud = [(text.upper().replace(" ", " - "), score) for text, score in spotted]
    if rule.unit == "word":  # a dash of its own is a word without characters
        loud = [(text.upper(), score) for text, score in spotted]
    plain = overlap(caption, spotted, rule).length
    assert overlap(caption.upper().replace(" ", "  ") + "!", loud, rule).length == plain


@given(PHRASE, SPOTTED)
def test_spacing_does_not_matter_to_the_paper_rule(caption, spotted):
    joined = [(text.replace(" ", ""), score) for text, score in spotted]
    assert (
        overlap(caption.replace(" ", ""), joined, PAPER).length
        == overlap(caption, spotted, PAPER).length
    )


@given(PHRASE, SPOTTED, RULES)
def test_a_higher_min_score_never_finds_more(caption, spotted, rule):
    lengths = [
        overlap(caption, spotted, replace(rule, min_score=score)).length
        for score in (0.0, 0.6, 0.9, 1.0)
    ]
    assert lengths == sorted(lengths, reverse=True)


@given(PHRASE, SPOTTED, RULES)
@settings(max_examples=50)
def test_the_order_of_strings_does_not_matter(caption, spotted, rule):
    results = {overlap(caption, list(order), rule) for order in itertools.permutations(spotted)}
    assert len(results) == 1


@given(st.lists(st.tuples(PHRASE, SPOTTED), max_size=5), RULES)
def test_the_fast_path_is_the_slow_one(rows, rule):
    captions = [caption for caption, _ in rows]
    spotted = [strings for _, strings in rows]
    assert overlap_lengths(captions, spotted, rule) == [overlap(c, s, rule).length for c, s in rows]


class Plain(_Caption):
    """The search for nearly equal runs without its short cuts: each run of the caption with each of
    the string."""

    def _nearly_equal(
        self, string: Folded, shapes: str, longest: int
    ) -> Iterator[tuple[int, int, int]]:
        starts = self.folded.starts
        string_words = list(string.words())
        for first, last in itertools.combinations(range(len(starts)), 2):
            run = self.shapes[starts[first] : starts[last]]
            letters = sum(map(str.isalpha, self.folded.chars[starts[first] : starts[last]]))
            allowed = max(
                (edits for least, edits in self.rule.edits if letters >= least), default=0
            )
            if not allowed or len(run) > 40:
                continue
            for left, right in itertools.combinations(range(len(string.starts)), 2):
                edits = within_edits(
                    run, shapes[string.starts[left] : string.starts[right]], allowed
                )
                if not edits or _is_another_text(
                    string_words[left:right], self.words[first:last], edits
                ):
                    continue
                length = self._weight(starts[first], starts[last]) - edits
                if length > longest and self._says_something(self.words[first:last], length):
                    longest = length
                    yield length, starts[first], starts[last]


@st.composite
def captions_and_lines(draw: st.DrawFn) -> tuple[str, str]:
    """A caption of words of some alphabets, and a piece of it with some characters replaced, added
    or left out."""
    alphabet = draw(
        st.sampled_from(["ab", "abcdefgh", "o0l1is5e", "a北京大学b", "กขั", "ñaéb北가나"])
    )
    word = st.one_of(WORDS, st.text(alphabet, min_size=1, max_size=12))
    caption = draw(st.sampled_from(["", " "])).join(draw(st.lists(word, min_size=1, max_size=6)))
    start = draw(st.integers(0, len(caption)))
    line = list(caption[start : start + draw(st.integers(4, 30))])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(line)))
        line[at : at + draw(st.integers(0, 1))] = draw(st.text(alphabet + " ", max_size=1))
    return caption, draw(st.sampled_from(["", "the ", "ab "])) + "".join(line)


@given(
    captions_and_lines(),
    st.sampled_from(
        [
            TOLERANT,
            replace(TOLERANT, common_chance=0, ideograph_weight=1),
            replace(TOLERANT, common_chance=0, edits=((3, 1), (5, 2), (9, 4))),
            replace(TOLERANT, common_chance=0, edits=((4, 3),), look_alikes=()),
        ]
    ),
)
@settings(max_examples=200)
def test_nearly_equal_runs_are_those_of_a_search_without_short_cuts(pair, rule):
    caption, line = pair
    assert _Caption(caption, rule).best_run(line) == Plain(caption, rule).best_run(line)


def test_a_search_of_a_long_caption_compares_few_runs(monkeypatch):
    compared = []

    def counted(left: str, right: str, most: int) -> int | None:
        compared.append(left)
        return within_edits(left, right, most)

    monkeypatch.setattr("open_diht.filters.spotting.overlap.within_edits", counted)
    ideographs = "".join(chr(0x4E00 + 7 * row % 5000) for row in range(4000))
    caption = _Caption(ideographs + " nevermind " + "a b c d " * 500, TOLERANT)
    assert caption.best_run(ideographs[1000:1003] + "newermind a b d e") == (8, 4000, 4009)
    assert len(compared) < 50 and sum(map(len, caption._edited_runs.values())) < 500


@given(st.text(alphabet="abc ", max_size=20), st.text(alphabet="abc ", max_size=12))
def test_the_paper_rule_is_the_longest_common_substring(caption, text):
    longest = textbook_longest_common_substring(fold(caption).chars, fold(text).chars)
    assert overlap(caption, [(text, 1.0)], PAPER).length == longest


@given(
    st.text(max_size=40),
    st.lists(st.tuples(st.text(max_size=20), st.floats(0, 1)), max_size=3),
    RULES,
)
def test_any_text_is_accepted(caption, spotted, rule):
    found = overlap(caption, spotted, rule)
    assert found.length >= 0
    if found.where:
        assert 0 <= found.where[0] < found.where[1] <= len(caption)


@given(PHRASE, SPOTTED)
def test_kept_strings_suffice_to_recompute_under_any_threshold(caption, spotted):
    stored = [(text, score) for text, score in spotted if score >= 0.5]  # what the spotter keeps
    for min_score in (0.5, 0.8, 0.9):
        rule = replace(TOLERANT, min_score=min_score)
        assert overlap(caption, stored, rule) == overlap(caption, spotted, rule)


def test_the_table_holds_what_captions_are_full_of():
    chances = word_chances()
    assert chances["the"] > 0.1
    assert {"black", "house", "photo", "woman"} <= chances.keys()
    assert not {"carlsberg", "wivenhoe"} & chances.keys()
    assert all(LEAST_CHANCE <= chance <= 1 for chance in chances.values())


FEW_LETTERS = st.text(alphabet="abc", max_size=14)


def textbook_longest_common_substring(left: str, right: str) -> int:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left, 1):
        for j, b in enumerate(right, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else 0
    return max(max(row) for row in table)


def textbook_edit_distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


@given(FEW_LETTERS, FEW_LETTERS, st.integers(0, 4))
def test_within_edits_is_the_textbook_distance_or_none(left, right, most):
    distance = textbook_edit_distance(left, right)
    assert within_edits(left, right, most) == (distance if distance <= most else None)
