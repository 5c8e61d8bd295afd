"""Score how likely a candidate is stated about something in the image: logistic regression on named
features.

There is one set of weights for actions and one for attributes and relations ("details").
`benchmarks/weights/train_verifier.py` trains them on the labels in `benchmarks/labels/`. The
weights are a table of feature names and numbers, so every score can be explained. For actions, a
linear probe of the parser's vector of the verb in its context is one more feature.
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

from open_diht.filters.captions.feature_names import Features, Make
from open_diht.filters.captions.features import Captions, Columns
from open_diht.filters.captions.graph import CaptionGraph
from open_diht.filters.captions.numpy_spacy.encoder import Floats

Odds = NDArray[np.float64]

WEIGHTS = "verifier.json"
IN_CONTEXT = "the word in its context"
"""Name of the feature that the probe reads from the vector."""
REASONS = 6
# round the probe's output: sums of floats differ in their last bits between processors, decisions
# must not
_STEP = 0.5
_CACHED = 10_000  # cached arguments per group of features


class _Known(dict[tuple[Any, ...], float]):
    """Cache of the log odds of a group of features, by the group's arguments. Most arguments
    recur."""

    def __init__(self, weigh: Callable[[Features], float], make: Make):
        super().__init__()
        self._weigh = weigh
        self._make = make

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
    """Weights of the probe of a vector; its output is added to the log odds in steps. Empty: no
    vectors are used."""

    @staticmethod
    def of(table: dict[str, Any]) -> Scorer:
        """Build a scorer from `bias`, `weights` and, if vectors are used, `probe`."""
        return Scorer(table["bias"], table["weights"], tuple(table.get("probe", ())))

    @cached_property
    def _probe(self) -> Floats:
        return np.array(self.probe, np.float32)

    def read(self, vectors: Floats) -> Odds:
        """Return the log odds from the words' vectors in context: (words, width) float32 ->
        (words,) float64."""
        if not (self.probe and len(vectors)):
            return np.zeros(len(vectors))
        # Rounded, see _STEP.
        return _STEP * np.round((vectors * self._probe).sum(axis=1, dtype=np.float64) / _STEP)

    @cached_property
    def _known(self) -> dict[Make, _Known]:
        return {}

    def weigh(self, features: Features) -> float:
        """Return the log odds that the features add."""
        return sum(map(mul, features.values(), map(self.weights.get, features, repeat(0.0))))

    def weigh_columns(self, columns: Columns) -> Odds:
        """Return the log odds that features add to each candidate: the results of `weigh`, computed
        faster."""
        odds = np.zeros(len(columns.captions))
        for make, *arguments in columns.groups:
            known = self._known.get(make) or self._known.setdefault(make, _Known(self.weigh, make))
            odds += np.fromiter(
                map(known.__getitem__, zip(*arguments, strict=True)), np.float64, len(odds)
            )
        for name, values in columns.values.items():
            odds += self.weights.get(name, 0.0) * values
        return odds

    def score(self, facts: Columns, candidates: Columns, read: Odds | float = 0.0) -> Odds:
        """Return the probabilities of candidates, float64 (candidates,). `read` is the result of
        the method `read`."""
        of_captions = self.weigh_columns(facts)[np.array(candidates.captions, np.int64)]
        return self.probability(of_captions + self.weigh_columns(candidates) + read)

    def probability(self, log_odds: Odds) -> Odds:
        """Return the probability, 0 to 1, of candidates whose own and caption features add up to
        `log_odds`."""
        # exp must not overflow.
        return 1 / (1 + np.exp(-np.clip(self.bias + log_odds, -30.0, 30.0)))

    def __call__(self, features: Features) -> float:
        """Return the probability, without the probe, of a candidate with these features and those
        of its caption."""
        return float(self.probability(np.array(self.weigh(features))))

    def reasons(
        self, features: Features, read: float = 0.0, count: int = REASONS
    ) -> list[tuple[str, float]]:
        """Return the features with the largest contributions to the log odds, for or against,
        each with its contribution. `read` is the output of the method `read` for the candidate's
        vector."""
        weighed = {name: value * self.weights.get(name, 0.0) for name, value in features.items()}
        shares = [(name, share) for name, share in {**weighed, IN_CONTEXT: read}.items() if share]
        return sorted(shares, key=lambda share: -abs(share[1]))[:count]


class Evidence(NamedTuple):
    """The reasons for a candidate's score."""

    score: float
    reasons: tuple[tuple[str, float], ...]
    """The features with the largest contributions and the log odds that they add: positive for the
    candidate, negative against it."""


class Scores(NamedTuple):
    """Probabilities of the candidates of some graphs, graph by graph, in the order of the graph's
    tuples."""

    actions: Odds
    attributes: Odds
    relations: Odds


class Verifier:
    """Scores every candidate of caption graphs."""

    def __init__(self, actions: Scorer, details: Scorer):
        self.actions = actions
        self.details = details

    def score(self, graphs: Sequence[CaptionGraph], originals: Sequence[str]) -> Scores:
        """Score all candidates of some graphs.

        Args:
            graphs: the graphs of the captions.
            originals: the original captions, one per graph.

        Returns:
            Probabilities of the actions, attributes and relations.
        """
        asked = [bool(graph.actions or graph.attributes or graph.relations) for graph in graphs]
        graphs = list(compress(graphs, asked))  # captions without candidates have no scores
        captions = Captions(graphs, list(compress(originals, asked)))
        facts = captions.facts
        return Scores(
            self.actions.score(facts, captions.actions, self.actions.read(_vectors(graphs))),
            self.details.score(facts, captions.attributes),
            self.details.score(facts, captions.relations),
        )

    def evidence(
        self, graph: CaptionGraph, original: str
    ) -> tuple[list[Evidence], list[Evidence], list[Evidence]]:
        """Return the evidence for the actions, attributes and relations that `score` scores.

        Args:
            graph: the graph of one caption.
            original: the original caption.
        """
        captions = Captions([graph], [original])
        scores = self.score([graph], [original])
        facts = captions.facts.features(0)
        read = self.actions.read(_vectors([graph]))

        def of(scorer: Scorer, columns: Columns, scores: Odds, read: Odds) -> list[Evidence]:
            return [
                Evidence(
                    float(score),
                    tuple(scorer.reasons(facts | columns.features(place), float(read[place]))),
                )
                for place, score in enumerate(scores)
            ]

        return (
            of(self.actions, captions.actions, scores.actions, read),
            of(
                self.details,
                captions.attributes,
                scores.attributes,
                np.zeros(len(scores.attributes)),
            ),
            of(self.details, captions.relations, scores.relations, np.zeros(len(scores.relations))),
        )


def _vectors(graphs: Sequence[CaptionGraph]) -> Floats:
    """Return the vectors in context of the verb candidates, float32 (candidates, width)."""
    found = [
        graph.parse.vectors[[action.token for action in graph.actions]]
        for graph in graphs
        if graph.actions
    ]
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


@cache
def load_verifier() -> Verifier:
    """Load the trained weights that ship with the package."""
    text = files("open_diht.filters.captions").joinpath(WEIGHTS).read_text(encoding="utf-8")
    tables = json.loads(text)
    return Verifier(*(Scorer.of(tables[part]) for part in ("actions", "details")))


def weights_fingerprint() -> str:
    """Return the sha256 of the weights, for the provenance of a run."""
    return hashlib.sha256(
        files("open_diht.filters.captions").joinpath(WEIGHTS).read_bytes()
    ).hexdigest()
