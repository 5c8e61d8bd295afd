"""Words of captions to names of concepts."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.filters.captions.concepts import MAX_WORDS, ConceptNames, concept_names
from open_diht.filters.captions.parse import COPY, ModelMissing, find_model


@pytest.fixture(scope="module")
def names() -> ConceptNames:
    return concept_names()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("horses", ("horse",)), ("Horse", ("horse",)), ("evening sun", ("evening sun", "sun")),
        ("Komodo dragons", ("komodo dragon", "dragon")), ("women", ("woman",)),
        ("geese", ("goose",)), ("leaves", ("leaf",)), ("dress", ("dress",)), ("bus", ("bus",)),
        ("series", ("series",)), ("species", ("species",)),
        ("mountain pass", ("mountain pass", "pass")), ("passes", ("pass",)), ("boss", ("boss",)),
        ("glasses", ("glass",)), ("dog's", ("dog",)), ("(trees)", ("tree",)), ("they", ()),
        ("2019", ()), ("", ()),
        ("big old red fire engines", ("red fire engine", "fire engine", "engine")),
    ],
)  # fmt: skip
def test_objects(names, text, expected):
    assert names.object(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red", "red"), ("darker", "dark"), ("best", "good"), ("cutest", "cute"), ("cuter", "cute"),
        ("pass", "pass"), ("Two", "two"), ("60W", None), ("2", None), ("!", None),
    ],
)  # fmt: skip
def test_attributes(names, text, expected):
    assert names.attribute(text) == expected


def test_a_caption_names_each_concept_once(names):
    assert names.objects(["Cats", "cat", None, "house cats"]) == {"cat", "house cat"}
    assert names.attributes(["Black", "black", None]) == {"black"}


@given(text=st.text(max_size=40))
def test_any_text_gives_few_lower_case_names(text):
    found = concept_names().object(text)
    assert len(found) <= MAX_WORDS and all(name == name.lower().strip() and name for name in found)
    assert all(long.endswith(short) for long, short in itertools.pairwise(found))


def test_a_copy_of_the_model_that_is_not_the_known_one_is_refused(monkeypatch):
    if find_model() != COPY:
        pytest.skip("the model is not the third party's copy")
    monkeypatch.setattr("open_diht.filters.captions.parse.COPY_SHA256", "0" * 64)
    with pytest.raises(ModelMissing, match="install it again"):
        ConceptNames()
