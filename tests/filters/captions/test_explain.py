"""What a score goes by is said in words, and is of the score that the annotations hold."""

import pytest

from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.captions.explain import _in_words, explain, in_words
from open_diht.filters.captions.verifier import Evidence, load_verifier


def test_candidates_stand_in_the_order_of_the_annotations_with_their_scores(odd_texts):
    captions = ["Ocean Waves Yoga Retreat banner with a green breaker rolling in", *odd_texts[:30]]
    for caption, row in zip(
        captions, CaptionAnnotator().annotate(captions).to_pylist(), strict=True
    ):
        said = explain(caption)
        for name in ("actions", "attributes", "relations"):
            scores = [one.score for one in getattr(said, name)]
            assert scores == pytest.approx([one["score"] for one in row[name]], abs=1e-3)


def test_reasons_are_few_loudest_first_and_each_said_once():
    (action,) = explain("a man riding a brown horse on the beach").actions
    shares = [abs(odds) for _, odds in action.reasons]
    assert 0 < len(shares) <= 6 and shares == sorted(shares, reverse=True)
    texts = [text for text, _ in action.reasons]
    assert len(set(texts)) == len(texts)
    weights = load_verifier().actions.weights
    for text, name in (
        ("actor before", "actor before"),
        ("verb form ing, can act before", "verb form ing, acts 3 before"),
    ):
        assert dict(action.reasons)[text] == weights[name] > 0


def test_features_with_the_same_words_are_one_reason():
    evidence = (("subject acts None", 1.0), ("tie", -1.5), ("subject visible None", 1.0))
    assert _in_words(Evidence(0.5, evidence)).reasons == (("subject absent", 2.0), ("tie", -1.5))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("before NNP", "before name"), ("tag VBG, title case 1", "tag -ing form, title case 1"),
        ("subject acts 3, visible -1", "subject can act, unrated verb"),
        ("verb form ing, PRP$ before", "verb form ing, possessive before"),
        ("said of spinning", "said of spinning"),
        ("tie None, subject acts None", "tie None, subject absent"),
        ("other word 2 as NN", "often another word as noun"),
    ],
)  # fmt: skip
def test_tags_and_ratings_are_spelled_out(name, words):
    assert in_words(name) == words


def test_no_reason_shows_how_a_word_is_lacking_in_the_program(odd_texts):
    for caption in (
        "running",
        "a photo of eating and drinking",
        "sitting on a bench",
        *odd_texts[:30],
    ):
        said = explain(caption)
        found = [*said.actions, *said.attributes, *said.relations]
        assert not [text for one in found for text, _ in one.reasons if "None" in text], caption
