"""How likely a candidate is stated of something in the image: a logistic regression on named features.

One set of weights for actions, one for attributes and relations ("details"). Trained by `benchmarks/train_verifier.py`
from the labels in `benchmarks/labels/`; the weights are a table of feature names and numbers, so every score can be
taken apart. For actions the parser's vector of the verb in its context has a say, too: what a linear probe reads there
is one more feature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from itertools import compress, repeat
from operator import mul
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from open_diht.filters.captions.encoder import Floats
from open_diht.filters.captions.feature_names import Features, Make
from open_diht.filters.captions.features import Captions, Columns
from open_diht.filters.captions.graph import CaptionGraph

Odds = NDArray[np.float64]

WEIGHTS = "verifier.json"
IN_CONTEXT = "the word in its context"
"""Name of the feature that is read off the vector."""
REASONS = 6
_STEP = 0.5  # of what is read there: sums of floats differ in their last bits between processors, decisions must not
_CACHED = 10_000  # arguments of a group of features


class _Known(dict[tuple[Any, ...], float]):
    """Arguments of a group of features, most of which recur, to the log odds that it adds."""

    def __init__(self, weigh: Callable[[Features], float], make: Make):
        super().__init__()
        self._weigh, self._make = weigh, make

    def __missing__(self, arguments: tuple[Any, ...]) -> float:
        if len(self) >= _CACHED:
            self.clear()
        odds = self[arguments] = self._weigh(self._make(*arguments))
        return odds


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

    def read(self, vectors: Floats) -> Odds:
        """Log odds that words' vectors in their context, shape (words, width), add."""
        if not (self.probe and len(vectors)):
            return np.zeros(len(vectors))
        return _STEP * np.round((vectors * self._probe).sum(axis=1, dtype=np.float64) / _STEP)

    @cached_property
    def _known(self) -> dict[Make, _Known]:
        return {}

    def weigh(self, features: Features) -> float:
        """Log odds that the features add."""
        return sum(map(mul, features.values(), map(self.weights.get, features, repeat(0.0))))

    def weigh_columns(self, columns: Columns) -> Odds:
        """Log odds that features add to each of their candidates: what `weigh` makes of them one by one, faster."""
        odds = np.zeros(len(columns.captions))
        for make, *arguments in columns.groups:
            known = self._known.get(make) or self._known.setdefault(make, _Known(self.weigh, make))
            odds += np.fromiter(map(known.__getitem__, zip(*arguments, strict=True)), np.float64, len(odds))
        for name, values in columns.values.items():
            odds += self.weights.get(name, 0.0) * values
        return odds

    def score(self, facts: Columns, candidates: Columns, read: Odds | float = 0.0) -> Odds:
        """Probabilities of candidates.

        Args:
            facts: features of the captions.
            candidates: features of the candidates themselves.
            read: what `read` says of their vectors.
        """
        of_captions = self.weigh_columns(facts)[np.array(candidates.captions, np.int64)]
        return self.probability(of_captions + self.weigh_columns(candidates) + read)

    def probability(self, log_odds: Odds) -> Odds:
        """Of candidates whose features (their own and their caption's) weigh `log_odds`: 0 to 1."""
        return 1 / (1 + np.exp(-np.clip(self.bias + log_odds, -30.0, 30.0)))

    def __call__(self, features: Features) -> float:
        """Probability of a candidate with these features, those of its caption included."""
        return float(self.probability(np.array(self.weigh(features))))

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


class Scores(NamedTuple):
    """Probabilities of the candidates of some graphs, graph by graph, in the order of a graph's own tuples."""

    actions: Odds
    attributes: Odds
    relations: Odds


class Verifier:
    """Scores every candidate of caption graphs."""

    def __init__(self, actions: Scorer, details: Scorer):
        self.actions, self.details = actions, details

    def score(self, graphs: Sequence[CaptionGraph], originals: Sequence[str]) -> Scores:
        """`originals` are the captions as they stand in their rows."""
        asked = [bool(graph.actions or graph.attributes or graph.relations) for graph in graphs]
        graphs = list(compress(graphs, asked))
        captions = Captions(graphs, list(compress(originals, asked)))
        facts = captions.facts
        return Scores(
            self.actions.score(facts, captions.actions, self.actions.read(_vectors(graphs))),
            self.details.score(facts, captions.attributes),
            self.details.score(facts, captions.relations),
        )

    def evidence(self, graph: CaptionGraph, original: str) -> tuple[list[Evidence], list[Evidence], list[Evidence]]:
        """Of the actions, attributes and relations that `score` scores."""
        captions, scores = Captions([graph], [original]), self.score([graph], [original])
        facts, read = captions.facts.features(0), self.actions.read(_vectors([graph]))

        def of(scorer: Scorer, columns: Columns, scores: Odds, read: Odds) -> list[Evidence]:
            return [
                Evidence(float(score), tuple(scorer.reasons(facts | columns.features(place), float(read[place]))))
                for place, score in enumerate(scores)
            ]

        return (
            of(self.actions, captions.actions, scores.actions, read),
            of(self.details, captions.attributes, scores.attributes, np.zeros(len(scores.attributes))),
            of(self.details, captions.relations, scores.relations, np.zeros(len(scores.relations))),
        )


def _vectors(graphs: Sequence[CaptionGraph]) -> Floats:
    """Those of the verb candidates in their context, shape (candidates, width)."""
    found = [graph.parse.vectors[[action.token for action in graph.actions]] for graph in graphs if graph.actions]
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


@cache
def load_verifier() -> Verifier:
    """The trained weights that ship with the package."""
    text = files("open_diht.filters.captions").joinpath(WEIGHTS).read_text(encoding="utf-8")
    tables = json.loads(text)
    return Verifier(*(Scorer.of(tables[part]) for part in ("actions", "details")))


def weights_fingerprint() -> str:
    """sha256 of the weights, for the provenance of a run."""
    return hashlib.sha256(files("open_diht.filters.captions").joinpath(WEIGHTS).read_bytes()).hexdigest()
