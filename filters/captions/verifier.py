"""How likely a candidate is stated of something in the image: a logistic regression on named features.

One set of weights for actions, one for attributes and relations ("details"). Trained by `benchmarks/train_verifier.py`
from the labels in `benchmarks/labels/`; the weights are a table of feature names and numbers, so every score can be
taken apart. For actions the parser's vector of the verb in its context has a say, too: what a linear probe reads there
is one more feature.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from filters.captions.encoder import Floats
from filters.captions.features import (
    CaptionContext,
    Features,
    Group,
    Parts,
    action_parts,
    attribute_parts,
    merged,
    relation_parts,
)
from filters.captions.graph import Action, CaptionGraph

WEIGHTS = "verifier.json"
IN_CONTEXT = "the word in its context"
"""Name of the feature that is read off the vector."""
REASONS = 6
_STEP = 0.5  # of what is read there: sums of floats differ in their last bits between processors, decisions must not
_CACHED = 20_000  # groups of features


class _Known(dict[Group, float]):
    """Groups of features, most of which recur, to the log odds that they add."""

    def __init__(self, weigh: Callable[[Features], float]):
        super().__init__()
        self._weigh = weigh

    def __missing__(self, group: Group) -> float:
        if len(self) >= _CACHED:
            self.clear()
        make, *of = group
        share = self[group] = self._weigh(make(*of))
        return share


@dataclass(frozen=True)
class Scorer:
    """A logistic regression over named features."""

    bias: float
    weights: dict[str, float]
    probe: tuple[float, ...] = ()
    """Of a vector, added to the log odds in steps; empty: vectors are not asked."""

    @staticmethod
    def of(table: dict[str, Any]) -> Scorer:
        """From `bias`, `weights` and, where vectors are asked, `probe`."""
        return Scorer(table["bias"], table["weights"], tuple(table.get("probe", ())))

    @cached_property
    def _probe(self) -> Floats:
        return np.array(self.probe, np.float32)

    def read(self, vector: Floats) -> float:
        """Log odds that a word's vector in its context adds."""
        return _STEP * round(float(vector @ self._probe) / _STEP) if self.probe else 0.0

    @cached_property
    def _known(self) -> _Known:
        return _Known(self.weigh)

    def weigh(self, features: Features) -> float:
        """Log odds that the features add."""
        weight = self.weights.get
        return sum([value * weight(name, 0.0) for name, value in features.items()])

    def weigh_parts(self, parts: Parts) -> float:
        """Log odds that features add: what `weigh` makes of them merged, faster."""
        groups, names, shares = parts
        known, weight = self._known, self.weights.get
        odds = sum([known[group] for group in groups]) + sum([weight(name, 0.0) for name in names])
        return odds + self.weigh(shares)

    def probability(self, log_odds: float) -> float:
        """Of a candidate whose features (its own and its caption's) weigh `log_odds`: 0 to 1."""
        return 1 / (1 + math.exp(-max(min(self.bias + log_odds, 30.0), -30.0)))

    def __call__(self, features: Features) -> float:
        """Probability of a candidate with these features, those of its caption included."""
        return self.probability(self.weigh(features))

    def reasons(self, features: Features, read: float = 0.0, count: int = REASONS) -> list[tuple[str, float]]:
        """The features that speak loudest, for or against, with their share of the log odds.

        Args:
            features: of the candidate and its caption.
            read: what `read` says of its vector.
            count: of features.
        """
        weighed = {name: value * self.weights.get(name, 0.0) for name, value in features.items()}
        shares = [(name, share) for name, share in {**weighed, IN_CONTEXT: read}.items() if share]
        return sorted(shares, key=lambda share: -abs(share[1]))[:count]


class Evidence(NamedTuple):
    """Why a candidate has its score."""

    score: float
    reasons: tuple[tuple[str, float], ...]
    """The features that speak loudest and the log odds that they add: above 0 for the candidate, below against it."""


@dataclass(frozen=True)
class Scores:
    """Probabilities of a graph's candidates, in the order of the graph's own tuples."""

    actions: tuple[float, ...]
    attributes: tuple[float, ...]
    relations: tuple[float, ...]


class Verifier:
    """Scores every candidate of a caption graph."""

    def __init__(self, actions: Scorer, details: Scorer):
        self.actions, self.details = actions, details

    def score(self, graph: CaptionGraph, original: str) -> Scores:
        """`original` is the caption as it stands in the row: separators and stock-site words are evidence."""
        if not (graph.actions or graph.attributes or graph.relations):
            return Scores((), (), ())
        context = CaptionContext(graph, original)
        act, detail = self.actions, self.details
        act_base = act.weigh_parts(context.parts) if graph.actions else 0.0
        base = detail.weigh_parts(context.parts) if graph.attributes or graph.relations else 0.0
        details = [attribute_parts(context, attribute) for attribute in graph.attributes]
        details += [relation_parts(context, relation) for relation in graph.relations]
        scores = [detail.probability(base + detail.weigh_parts(parts)) for parts in details]
        return Scores(
            tuple([self._action(context, one, act_base) for one in graph.actions]),
            tuple(scores[: len(graph.attributes)]),
            tuple(scores[len(graph.attributes) :]),
        )

    def evidence(self, graph: CaptionGraph, original: str) -> tuple[list[Evidence], list[Evidence], list[Evidence]]:
        """Of the actions, attributes and relations that `score` scores."""
        context, vectors = CaptionContext(graph, original), graph.parse.vectors

        def of(scorer: Scorer, parts: Parts, score: float, read: float = 0.0) -> Evidence:
            features = merged(context.parts) | merged(parts)
            return Evidence(score, tuple(scorer.reasons(features, read)))

        scores, act = self.score(graph, original), self.actions
        return (
            [
                of(act, action_parts(context, one), score, act.read(vectors[one.token]))
                for one, score in zip(graph.actions, scores.actions, strict=True)
            ],
            [
                of(self.details, attribute_parts(context, one), score)
                for one, score in zip(graph.attributes, scores.attributes, strict=True)
            ],
            [
                of(self.details, relation_parts(context, one), score)
                for one, score in zip(graph.relations, scores.relations, strict=True)
            ],
        )

    def _action(self, context: CaptionContext, action: Action, base: float) -> float:
        odds = self.actions.weigh_parts(action_parts(context, action))
        return self.actions.probability(base + odds + self.actions.read(context.parse.vectors[action.token]))


@cache
def load_verifier() -> Verifier:
    """The trained weights that ship with the package."""
    text = files("filters.captions").joinpath(WEIGHTS).read_text(encoding="utf-8")
    tables = json.loads(text)
    return Verifier(*(Scorer.of(tables[part]) for part in ("actions", "details")))


def weights_fingerprint() -> str:
    """sha256 of the weights, for the provenance of a run."""
    return hashlib.sha256(files("filters.captions").joinpath(WEIGHTS).read_bytes()).hexdigest()
