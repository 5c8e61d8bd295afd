"""What a reader calls the same text folds to the same characters, and the way back leads to the
original."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.filters.spotting.folding import fold, is_ideograph


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Déjà vu", ["deja", "vu"]), ("\uff26ull \uff57idth", ["full", "width"]), ("ﬁne", ["fine"]),
        ("Straße", ["strasse"]), ("İSTANBUL", ["istanbul"]), ("ŁÓDŹ", ["lodz"]),
        ("don't", ["don", "t"]), ("Tom &amp; Jerry &#39;s", ["tom", "jerry", "s"]),
        ("soft\u00adhyphen zero\u200bwidth", ["softhyphen", "zerowidth"]), ("☕️ time", ["time"]),
        ("北京 hotel", ["北", "京", "hotel"]), ("한국 음식", ["한국", "음식"]),
        ("हिन्दी में", ["हिन्दी", "में"]), ("C++ & C#", ["c", "c"]),
        ("Nike™Air Zone℠®", ["nike", "air", "zone"]), ("", []), ("—!?", []),
    ],
)  # fmt: skip
def test_words(text, words):
    assert list(fold(text).words()) == words


def test_the_way_back():
    text = "The Déjà-vu café"
    folded = fold(text)
    start = folded.chars.index("deja")
    assert text[slice(*folded.where(start, start + 6))] == "Déjà-vu"


def test_every_character_folds_as_its_parts():
    differing = []
    for code in range(sys.maxunicode + 1):
        parts = unicodedata.normalize("NFD", chr(code))
        if parts != chr(code) and fold(f"x{chr(code)}").chars != fold(f"x{parts}").chars:
            differing.append(f"{code:x}")
    assert not differing


@pytest.mark.parametrize(
    ("half", "full"),
    [("\uff76\uff9e\uff97\uff7d", "\u30ac\u30e9\u30b9"), ("\uff8a\uff9f\uff9d", "\u30d1\u30f3")],
)
def test_half_width_kana_fold_as_full_width_ones(half, full):
    assert (fold(half).chars, fold(half).starts) == (fold(full).chars, fold(full).starts)
    assert fold(half).where(0, 1) == (0, 1)


@given(st.text(max_size=60))
def test_composed_and_decomposed_forms_fold_alike(text):
    assert (
        fold(unicodedata.normalize("NFC", text)).chars
        == fold(unicodedata.normalize("NFD", text)).chars
    )


@given(st.text(max_size=60))
def test_positions_are_consistent(text):
    folded = fold(text)
    assert "".join(folded.words()) == folded.chars
    assert len(folded.origins) == len(folded.chars) and list(folded.origins) == sorted(
        folded.origins
    )
    assert all(0 <= origin < len(text) for origin in folded.origins)


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=60))
def test_ascii_takes_the_same_way_as_unicode(text):
    unicode_way = fold(text + "—")  # the dash adds nothing but forces the general code
    assert (fold(text).chars, fold(text).origins) == (unicode_way.chars, unicode_way.origins)
    assert list(fold(text).words()) == list(unicode_way.words())


def test_ideographs():
    assert [is_ideograph(char) for char in "京한aカд"] == [True, True, False, False, False]
