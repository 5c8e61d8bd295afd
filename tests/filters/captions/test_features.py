"""Features are named, finite, the same each time, and say what their names say."""

import math
from collections.abc import Callable

import pytest

from open_diht.filters.captions.features import Captions, Columns
from open_diht.filters.captions.graph import CaptionGraph
from open_diht.filters.captions.verifier import load_verifier

GraphOf = Callable[[str], CaptionGraph]


def captions_of(graph_of: GraphOf, text: str, original: str | None = None) -> Captions:
    return Captions([graph_of(text)], [text if original is None else original])


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("Bride And Groom Dancing", "caption: title case"), ("a dog", "caption: short"),
        ("dog 123", "caption: share of digits"), ("a dog - stock photo", "caption: stock site"),
        ("A dog runs.", "caption: ends with a stop"),
        ("A dog runs on the beach", "caption: has a clause"),
        ("your new dog", "caption: addresses the reader"), ("How to train a dog", "caption: asks"),
        ("What a dog!", "caption: exclaims"), ("dogs | cats", "caption: has |"),
    ],
)  # fmt: skip
def test_features_of_the_caption(graph_of, caption, name):
    assert captions_of(graph_of, caption).facts.features(0)[name] > 0
    assert name not in captions_of(
        graph_of, "a brown dog in the garden of an old house", ""
    ).facts.features(0)


def test_the_original_caption_counts_not_the_parsed_one(graph_of):
    assert "caption: stock site" in captions_of(
        graph_of, "a dog", "a dog - stock photo"
    ).facts.features(0)


def test_features_of_an_action(graph_of):
    features = captions_of(graph_of, "A child is sitting on a bench").actions.features(0)
    for name in (
        "tag VBG",
        "verb sit",
        "word sitting",
        "with on",
        "with a preposition",
        "tie subject",
    ):
        assert features[name] == 1
    assert features["actor before"] == 1 and "with an object" not in features
    assert "said of child" in features and "subject acts 3" in features
    assert "said of nobody" in captions_of(graph_of, "running").actions.features(0)


def test_features_of_details(graph_of):
    captions = captions_of(graph_of, "a red cup on the table")
    said = captions.attributes.features(0)
    tied = captions.relations.features(0)
    assert {
        "attribute colour",
        "attribute colour, red",
        "describes red",
        "owner cup",
    } <= said.keys()
    assert {
        "relation",
        "relation, on",
        "owner cup",
        "target table",
        "target is a noun",
    } <= tied.keys()


def all_columns(captions: Captions) -> tuple[Columns, ...]:
    return captions.facts, captions.actions, captions.attributes, captions.relations


def test_no_name_stands_in_two_groups(graph_of):
    text = "Two Elegant Wedding Cards, red - man holding a ball and a ball by the sea with a dog"
    for columns in all_columns(captions_of(graph_of, text)):
        assert len(columns.captions) > 0
        for place in range(len(columns.captions)):
            names = [*columns.values]
            for make, *arguments in columns.groups:
                names += make(*(column[place] for column in arguments))
            assert len(names) == len(set(names))


def test_captions_do_not_depend_on_their_neighbours(graph_of, odd_texts):
    texts = [
        "walking boots",
        "a girl dancing",
        *odd_texts,
        "Anna and the old - the running dog",
        "a cup on a table",
    ]
    graphs = list(map(graph_of, texts))
    together = [
        (columns.captions[place], columns.features(place))
        for columns in all_columns(Captions(graphs, texts))
        for place in range(len(columns.captions))
    ]
    apart = [
        (caption, columns.features(place))
        for caption, (graph, text) in enumerate(zip(graphs, texts, strict=True))
        for columns in all_columns(Captions([graph], [text]))
        for place in range(len(columns.captions))
    ]
    assert sorted(together, key=str) == sorted(apart, key=str)
    assert all(math.isfinite(value) for _, features in together for value in features.values())


def test_the_weights_are_of_features_that_exist(graph_of):
    captions = captions_of(graph_of, "A man is sitting on a red bench. Bride And Groom Dancing!")
    names = set(captions.facts.features(0))
    for place in range(len(captions.actions.captions)):
        names |= captions.actions.features(place).keys()
    known = names & load_verifier().actions.weights.keys()
    assert len(known) > len(names) / 2
