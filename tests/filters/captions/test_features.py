"""Features are named, finite, the same each time, and say what their names say."""

import math
from collections.abc import Callable

import pytest

from filters.captions.features import CaptionContext, action_parts, attribute_parts, merged, relation_parts
from filters.captions.graph import CaptionGraph
from filters.captions.verifier import load_verifier

GraphOf = Callable[[str], CaptionGraph]


def context_of(graph_of: GraphOf, text: str, original: str | None = None) -> CaptionContext:
    return CaptionContext(graph_of(text), text if original is None else original)


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("Bride And Groom Dancing", "caption: title case"),
        ("a dog", "caption: short"),
        ("dog 123", "caption: share of digits"),
        ("a dog - stock photo", "caption: stock site"),
        ("A dog runs.", "caption: ends with a stop"),
        ("A dog runs on the beach", "caption: has a clause"),
        ("your new dog", "caption: addresses the reader"),
        ("How to train a dog", "caption: asks"),
        ("What a dog!", "caption: exclaims"),
        ("dogs | cats", "caption: has |"),
    ],
)
def test_features_of_the_caption(graph_of: GraphOf, caption: str, name: str) -> None:
    assert merged(context_of(graph_of, caption).parts)[name] > 0
    assert name not in merged(context_of(graph_of, "a brown dog in the garden of an old house", "").parts)


def test_the_original_caption_counts_not_the_parsed_one(graph_of: GraphOf) -> None:
    assert "caption: stock site" in merged(context_of(graph_of, "a dog", "a dog - stock photo").parts)


def test_features_of_an_action(graph_of: GraphOf) -> None:
    context = context_of(graph_of, "A child is sitting on a bench")
    (action,) = context.graph.actions
    features = merged(action_parts(context, action))
    for name in ("tag VBG", "verb sit", "word sitting", "with on", "with a preposition", "tie subject"):
        assert features[name] == 1
    assert features["actor before"] == 1 and "with an object" not in features
    assert "said of child" in features and "subject acts 3" in features


def test_a_verb_said_of_nobody(graph_of: GraphOf) -> None:
    context = context_of(graph_of, "running")
    (action,) = context.graph.actions
    assert "said of nobody" in merged(action_parts(context, action))


def test_features_of_details(graph_of: GraphOf) -> None:
    context = context_of(graph_of, "a red cup on the table")
    (attribute,) = context.graph.attributes
    (relation,) = context.graph.relations
    said, tied = merged(attribute_parts(context, attribute)), merged(relation_parts(context, relation))
    assert {"attribute colour", "attribute colour, red", "describes red", "owner cup"} <= said.keys()
    assert {"relation", "relation, on", "owner cup", "target table", "target is a noun"} <= tied.keys()


def test_no_name_stands_in_two_groups(graph_of: GraphOf) -> None:
    context = context_of(
        graph_of, "Two Elegant Wedding Cards, red - man holding a ball and a ball by the sea with a dog"
    )
    graph = context.graph
    parts = [action_parts(context, action) for action in graph.actions]
    parts += [attribute_parts(context, attribute) for attribute in graph.attributes]
    parts += [relation_parts(context, relation) for relation in graph.relations]
    assert parts
    for groups, single, shares in (context.parts, *parts):
        names = [*(name for make, *of in groups for name in make(*of)), *single, *shares]
        assert len(names) == len(set(names))


def test_odd_texts_give_finite_named_features(graph_of: GraphOf, odd_texts: list[str]) -> None:
    for text in odd_texts:
        context = context_of(graph_of, text)
        graph = context.graph
        found = [merged(context.parts), *(merged(action_parts(context, action)) for action in graph.actions)]
        found += [merged(attribute_parts(context, attribute)) for attribute in graph.attributes]
        found += [merged(relation_parts(context, relation)) for relation in graph.relations]
        for features in found:
            assert all(math.isfinite(value) for value in features.values()), text


def test_the_weights_are_of_features_that_exist(graph_of: GraphOf) -> None:
    sentence = "A man is sitting on a red bench. Bride And Groom Dancing!"
    context = context_of(graph_of, sentence)
    names = set(merged(context.parts))
    for action in context.graph.actions:
        names |= merged(action_parts(context, action)).keys()
    known = names & load_verifier().actions.weights.keys()
    assert len(known) > len(names) / 2
