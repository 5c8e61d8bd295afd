"""Explain in words why the verifier gave the candidates of a caption their scores."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from open_diht.filters.captions.graph import build_graph
from open_diht.filters.captions.normalize import normalize
from open_diht.filters.captions.parse import CaptionParser
from open_diht.filters.captions.verifier import Evidence, load_verifier

_TAGS = {
    "NN": "noun",
    "NNS": "plural noun",
    "NNP": "name",
    "NNPS": "plural name",
    "VB": "base form",
    "VBD": "past form",
    "VBG": "-ing form",
    "VBN": "participle",
    "VBP": "present form",
    "VBZ": "-s form",
    "JJ": "adjective",
    "JJR": "comparative",
    "JJS": "superlative",
    "IN": "preposition",
    "DT": "article",
    "CD": "number",
    "CC": "conjunction",
    "PRP": "pronoun",
    "PRP$": "possessive",
    "POS": "possessive 's",
    "RB": "adverb",
    "RP": "particle",
    "MD": "modal verb",
    "TO": "to",
    "HYPH": "hyphen",
    "START": "beginning",
    "END": "end",
}
_RATINGS = {
    "acts": ("unknown whether it acts", "cannot act", "inert", "moves", "can act"),
    "visible": ("unrated verb", "nothing visible", "seldom visible", "often visible", "visible"),
    "other word": ("unrated verb", "no other word", "seldom another word", "often another word", "mostly another word"),
    "shop word": ("unrated verb", "no shop word", "seldom a shop word", "often a shop word", "shop word"),
    "page word": ("unrated noun", "no page word", "at times a page word", "page word"),
}
_TAG = re.compile("|".join(rf"(?<![\w$]){re.escape(tag)}(?![\w$])" for tag in _TAGS))
_RATING = re.compile(rf"({'|'.join(_RATINGS)}) (-1|[0-3])\b")


@dataclass(frozen=True)
class Explanation:
    """The evidence for each candidate of a caption, in the order of its annotations."""

    actions: tuple[Evidence, ...]
    attributes: tuple[Evidence, ...]
    relations: tuple[Evidence, ...]


@cache
def _parser() -> CaptionParser:
    return CaptionParser()


def explain(caption: str) -> Explanation:
    """Parse a caption and return the verifier's evidence, with the names of features in plain words."""
    graph = build_graph(_parser().parse([normalize(caption)])[0])
    found = load_verifier().evidence(graph, caption)
    return Explanation(*(tuple(_in_words(one) for one in part) for part in found))


def _in_words(evidence: Evidence) -> Evidence:
    said: dict[str, float] = {}
    for name, odds in evidence.reasons:  # two features may have the same words
        said[in_words(name)] = said.get(in_words(name), 0.0) + odds
    return Evidence(evidence.score, tuple(sorted(said.items(), key=lambda share: -abs(share[1]))))


def in_words(name: str) -> str:
    """Return the name of a feature with tags and ratings spelled out."""
    name = _RATING.sub(lambda found: _RATINGS[found[1]][int(found[2]) + 1], name)
    return _TAG.sub(lambda found: _TAGS[found[0]], name)
