"""Scores are probabilities that can be taken apart; stated actions score higher than named ones."""

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.captions import verifier as module
from filters.captions.features import CaptionContext, action_parts, merged
from filters.captions.graph import CaptionGraph
from filters.captions.verifier import IN_CONTEXT, Scorer, load_verifier, weights_fingerprint

GraphOf = Callable[[str], CaptionGraph]
NUMBERS = st.floats(-50, 50)


@given(
    NUMBERS, st.dictionaries(st.sampled_from("abcdef"), NUMBERS), st.dictionaries(st.sampled_from("abcxyz"), NUMBERS)
)
def test_a_score_is_a_logistic_regression(bias: float, weights: dict[str, float], features: dict[str, float]) -> None:
    score = Scorer(bias, weights)(features)
    odds = bias + sum(value * weights.get(name, 0) for name, value in features.items())
    assert 0 <= score <= 1
    assert score == pytest.approx(1 / (1 + math.exp(-max(min(odds, 30), -30))), rel=1e-6)


def test_groups_weigh_what_their_features_do(graph_of: GraphOf) -> None:
    context = CaptionContext(graph := graph_of("a man riding a brown horse"), "a man riding a brown horse")
    scorer, parts = load_verifier().actions, action_parts(context, graph.actions[0])
    assert scorer.weigh_parts(parts) == pytest.approx(scorer.weigh(merged(parts)))
    assert scorer.weigh_parts(parts) == pytest.approx(scorer.weigh(merged(parts)))  # from what is known by now


def test_reasons_are_the_loudest_features_first() -> None:
    scorer = Scorer(0.0, {"a": 1.0, "b": -3.0, "c": 2.0})
    assert scorer.reasons({"a": 1, "b": 1, "c": 1, "d": 9}, count=2) == [("b", -3.0), ("c", 2.0)]
    assert scorer.reasons({"a": 1, "c": 1}, read=-1.5) == [("c", 2.0), (IN_CONTEXT, -1.5), ("a", 1.0)]
    assert scorer.reasons({"a": 0.0}) == []


def test_a_vector_is_read_in_steps_that_rounding_does_not_move() -> None:
    scorer = Scorer(0.0, {}, (1.0, -2.0))
    assert scorer.read(np.array([0.7, 0.1], np.float32)) == scorer.read(np.array([0.7 + 1e-5, 0.1], np.float32)) == 0.5
    assert Scorer(0.0, {}).read(np.array([5.0, 5.0], np.float32)) == 0


def test_the_evidence_of_all_features_adds_up_to_the_score(graph_of: GraphOf) -> None:
    text = "A black cat is chasing a small brown bird on the roof"
    graph, verifier = graph_of(text), load_verifier()
    context, (action,) = CaptionContext(graph, text), graph.actions
    features = merged(context.parts) | merged(action_parts(context, action))
    read = verifier.actions.read(graph.parse.vectors[action.token])
    odds = verifier.actions.bias + sum(share for _, share in verifier.actions.reasons(features, read, count=10**6))
    actions, attributes, relations = verifier.evidence(graph, text)
    assert [one.score for one in actions] == [pytest.approx(1 / (1 + math.exp(-odds)))]
    assert actions[0].reasons == tuple(verifier.actions.reasons(features, read))
    scores = verifier.score(graph, text)
    assert tuple(one.score for one in attributes) == scores.attributes
    assert tuple(one.score for one in relations) == scores.relations


def test_one_score_per_candidate_in_the_order_of_the_graph(graph_of: GraphOf) -> None:
    text = "A black cat is chasing a small brown bird on the roof"
    graph = graph_of(text)
    scores = load_verifier().score(graph, text)
    assert len(scores.actions) == len(graph.actions) > 0
    assert len(scores.attributes) == len(graph.attributes) > 0
    assert len(scores.relations) == len(graph.relations)
    context = CaptionContext(graph, text)
    scorer = load_verifier().actions
    odds = scorer.weigh(merged(context.parts) | merged(action_parts(context, graph.actions[0])))
    read = scorer.read(graph.parse.vectors[graph.actions[0].token])
    assert scores.actions[0] == pytest.approx(scorer.probability(odds + read))


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ("a man riding a horse on the beach", "horse riding boots size 10"),
        ("child sitting on a bench", "sitting room furniture"),
        ("a woman running along the beach", "Nike Running Shoes"),
        ("two dogs playing in the snow", "playing cards"),
        ("laughing children", "Guided Tours"),
        ("Feeding the ducks", "Cooking Classes ebook"),
        ("Firefighters rescue cat from tree", "Girl with Spring flowers"),
        ("running horse in a field", "walking boots"),
    ],
)
def test_stated_actions_score_higher_than_named_ones(graph_of: GraphOf, stated: str, named: str) -> None:
    verifier = load_verifier()
    low = max(verifier.score(graph_of(named), named).actions, default=0.0)
    assert max(verifier.score(graph_of(stated), stated).actions) > max(low, 0.5)


def test_odd_texts_score_between_zero_and_one(graph_of: GraphOf, odd_texts: list[str]) -> None:
    for text in odd_texts:
        scores = load_verifier().score(graph_of(text), text)
        assert all(0 <= score <= 1 for score in (*scores.actions, *scores.attributes, *scores.relations))


def test_the_fingerprint_is_that_of_the_file() -> None:
    with open(module.__file__.replace("verifier.py", module.WEIGHTS), "rb") as file:
        assert weights_fingerprint() == hashlib.sha256(file.read()).hexdigest()
