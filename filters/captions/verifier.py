"""How likely a candidate is stated of something in the image: a logistic regression on named features.

One set of weights for actions, one for attributes and relations ("details"). Trained by `benchmarks/train_verifier.py`
from the labels in `benchmarks/labels/`; the weights are a table of feature names and numbers, so every score can be
taken apart.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

from filters.captions.features import (
    CaptionContext,
    Features,
    Group,
    Parts,
    action_parts,
    attribute_parts,
    relation_parts,
)
from filters.captions.graph import CaptionGraph

WEIGHTS = "verifier.json"
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

    def reasons(self, features: Features, count: int = 4) -> list[tuple[str, float]]:
        """The features that speak loudest, for or against, with their share of the log odds."""
        parts = [
            (name, value * self.weights[name]) for name, value in features.items() if name in self.weights and value
        ]
        return sorted(parts, key=lambda part: -abs(part[1]))[:count]


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
            tuple([act.probability(act_base + act.weigh_parts(action_parts(context, one))) for one in graph.actions]),
            tuple(scores[: len(graph.attributes)]),
            tuple(scores[len(graph.attributes) :]),
        )


@cache
def load_verifier() -> Verifier:
    """The trained weights that ship with the package."""
    text = files("filters.captions").joinpath(WEIGHTS).read_text(encoding="utf-8")
    tables = json.loads(text)
    return Verifier(*(Scorer(tables[part]["bias"], tables[part]["weights"]) for part in ("actions", "details")))


def weights_fingerprint() -> str:
    """sha256 of the weights, for the provenance of a run."""
    return hashlib.sha256(files("filters.captions").joinpath(WEIGHTS).read_bytes()).hexdigest()
