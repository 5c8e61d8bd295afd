"""Scores are probabilities that can be taken apart; stated actions score higher than named ones."""

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.filters.captions import verifier as module
from open_diht.filters.captions.feature_names import Features
from open_diht.filters.captions.features import Captions
from open_diht.filters.captions.graph import CaptionGraph
from open_diht.filters.captions.verifier import (
    IN_CONTEXT,
    Scorer,
    load_verifier,
    weights_fingerprint,
)
from open_diht.filters.presets import load_preset

GraphOf = Callable[[str], CaptionGraph]
NUMBERS = st.floats(-50, 50)


def features_of_actions(graph: CaptionGraph, text: str) -> list[Features]:
    captions = Captions([graph], [text])
    return [
        captions.facts.features(0) | captions.actions.features(place)
        for place in range(len(graph.actions))
    ]


def read_of_actions(graph: CaptionGraph) -> list[float]:
    vectors = graph.parse.vectors[[action.token for action in graph.actions]]
    return load_verifier().actions.read(vectors).tolist()


@given(
    NUMBERS,
    st.dictionaries(st.sampled_from("abcdef"), NUMBERS),
    st.dictionaries(st.sampled_from("abcxyz"), NUMBERS),
)
def test_a_score_is_a_logistic_regression(bias, weights, features):
    score = Scorer(bias, weights)(features)
    odds = bias + sum(value * weights.get(name, 0) for name, value in features.items())
    assert 0 <= score <= 1
    assert score == pytest.approx(1 / (1 + math.exp(-max(min(odds, 30), -30))), rel=1e-6)


TEXTS = (
    "a man riding a brown horse", "Cats - dogs | birds", "",
    "A black cat is chasing a small bird near the red cup on the table",
)  # fmt: skip


def test_columns_weigh_what_their_features_do(graph_of):
    captions = Captions(list(map(graph_of, TEXTS)), TEXTS)
    for scorer in (load_verifier().actions, load_verifier().details):
        for columns in (captions.facts, captions.actions, captions.attributes, captions.relations):
            one_by_one = [
                scorer.weigh(columns.features(place)) for place in range(len(columns.captions))
            ]
            assert len(one_by_one) > 0
            assert scorer.weigh_columns(columns) == pytest.approx(one_by_one)
            # From what is known by now.
            assert scorer.weigh_columns(columns) == pytest.approx(one_by_one)


def test_reasons_are_the_loudest_features_first():
    scorer = Scorer(0.0, {"a": 1.0, "b": -3.0, "c": 2.0})
    assert scorer.reasons({"a": 1, "b": 1, "c": 1, "d": 9}, count=2) == [("b", -3.0), ("c", 2.0)]
    assert scorer.reasons({"a": 1, "c": 1}, read=-1.5) == [
        ("c", 2.0),
        (IN_CONTEXT, -1.5),
        ("a", 1.0),
    ]
    assert scorer.reasons({"a": 0.0}) == []


def test_a_vector_is_read_in_steps_that_rounding_does_not_move():
    scorer = Scorer(0.0, {}, (1.0, -2.0))
    assert scorer.read(np.array([[0.7, 0.1], [0.7 + 1e-5, 0.1]], np.float32)).tolist() == [0.5, 0.5]
    assert Scorer(0.0, {}).read(np.array([[5.0, 5.0]], np.float32)).tolist() == [0]


def test_the_evidence_of_all_features_adds_up_to_the_score(graph_of):
    text = "A black cat is chasing a small brown bird on the roof"
    graph = graph_of(text)
    verifier = load_verifier()
    (features,), (read,) = features_of_actions(graph, text), read_of_actions(graph)
    odds = verifier.actions.bias + sum(
        share for _, share in verifier.actions.reasons(features, read, count=10**6)
    )
    actions, attributes, relations = verifier.evidence(graph, text)
    assert [one.score for one in actions] == [pytest.approx(1 / (1 + math.exp(-odds)))]
    assert actions[0].reasons == tuple(verifier.actions.reasons(features, read))
    scores = verifier.score([graph], [text])
    assert [one.score for one in attributes] == scores.attributes.tolist()
    assert [one.score for one in relations] == scores.relations.tolist()


def test_one_score_per_candidate_graph_by_graph_in_their_order(graph_of):
    graphs = list(map(graph_of, TEXTS))
    verifier = load_verifier()
    together = verifier.score(graphs, TEXTS)
    apart = [verifier.score([graph], [text]) for graph, text in zip(graphs, TEXTS, strict=True)]
    for part in ("actions", "attributes", "relations"):
        assert (
            len(getattr(together, part)) == sum(len(getattr(graph, part)) for graph in graphs) > 0
        )
        assert getattr(together, part).tolist() == [
            score for one in apart for score in getattr(one, part)
        ]
    (features,), (read,) = features_of_actions(graphs[0], TEXTS[0]), read_of_actions(graphs[0])
    odds = verifier.actions.weigh(features) + read
    assert together.actions[0] == pytest.approx(1 / (1 + math.exp(-verifier.actions.bias - odds)))


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ("a man riding a horse on the beach", "horse riding boots size 10"),
        ("child sitting on a bench", "sitting room furniture"),
        ("a woman running along the beach", "Nike Running Shoes"),
        ("two dogs playing in the snow", "playing cards"), ("laughing children", "Guided Tours"),
        ("Feeding the ducks", "Cooking Classes ebook"),
        ("Firefighters rescue cat from tree", "Girl with Spring flowers"),
        ("running horse in a field", "walking boots"),
    ],
)  # fmt: skip
def test_stated_actions_score_higher_than_named_ones(graph_of, stated, named):
    verifier = load_verifier()
    low = max(verifier.score([graph_of(named)], [named]).actions, default=0.0)
    bar = load_preset("strict").captions.min_action_score
    assert max(verifier.score([graph_of(stated)], [stated]).actions) > max(low, bar)


@pytest.mark.parametrize(
    ("text", "preset", "reaches"),
    [
        ("nursing newborn", "balanced", True),
        *(
            (text, "strict", True)
            for text in ("Rescuers help flood victims", "Minister Tweets at summit")
        ),
        ("Otter devouring a fish", "strict", True),
        *(
            (text, "strict", False)
            for text in ("Cooking Classes ebook", "Guided Tours", "walking boots")
        ),
        ("Girl with Spring flowers", "strict", False),
    ],
)
def test_words_outside_of_the_samples_reach_the_bar_and_names_do_not(
    graph_of, text, preset, reaches
):
    highest = max(load_verifier().score([graph_of(text)], [text]).actions, default=0.0)
    assert (highest >= load_preset(preset).captions.min_action_score) == reaches


def test_the_fingerprint_is_that_of_the_file():
    with open(module.__file__.replace("verifier.py", module.WEIGHTS), "rb") as file:
        assert weights_fingerprint() == hashlib.sha256(file.read()).hexdigest()
