"""Languages of captions: what is identified, what is not, and that no text ends the run."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.filters.language import check_identifier, identify, provenance

CAPTIONS = {
    "a brown dog runs through the snow": "en",
    "Ein brauner Hund rennt durch den Schnee": "de",
    "Un chien brun court dans la neige": "fr",
    "Коричневая собака": "ru",
    "La r&eacute;daction du magazine a s&eacute;lectionn&eacute; le portable": "fr",
}


def test_the_language_of_a_caption_is_identified():
    assert [code for code, _ in identify(CAPTIONS)] == list(CAPTIONS.values())
    assert all(score is not None and 0.5 < score <= 1 for _, score in identify(CAPTIONS))
    assert provenance().startswith("pycld2 ")


@pytest.mark.parametrize(
    "caption", [None, "", "   ", "1234567", "\x00\x01", "\ud800", "DSC_0042.JPG"]
)
def test_what_has_no_language_has_none(caption):
    ((code, score),) = identify([caption])
    assert (code is None) is (score is None)
    assert code in (None, "en"), "a file's name may be taken for English"


@given(st.lists(st.text(max_size=40), max_size=5))
def test_a_language_does_not_depend_on_neighbours(captions):
    assert identify(captions) == [identify([one])[0] for one in captions]


def test_a_missing_identifier_is_said_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycld2", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"install .*\[score\]"):
        check_identifier()
    with pytest.raises(ModuleNotFoundError, match=r"install .*\[score\]"):
        identify(["A dog"])
