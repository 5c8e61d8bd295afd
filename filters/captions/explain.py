"""Explain in words why the verifier gave the candidates of a caption their scores."""

import math
import re
from dataclasses import dataclass
from functools import cache

from open_diht.filters.captions.graph import CaptionGraph, build_graph
from open_diht.filters.captions.normalize import normalize
from open_diht.filters.captions.opinion import load_opinion, revise
from open_diht.filters.captions.parse import CaptionParser
from open_diht.filters.captions.verifier import Evidence, Verifier, load_verifier

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
    "other word": (
        "unrated verb",
        "no other word",
        "seldom another word",
        "often another word",
        "mostly another word",
    ),
    "shop word": (
        "unrated verb",
        "no shop word",
        "seldom a shop word",
        "often a shop word",
        "shop word",
    ),
    "page word": ("unrated noun", "no page word", "at times a page word", "page word"),
}
_READ_WORDS = 60
"""Number of first words whose weight in the second opinion is measured, by leaving out one at a
time."""
# Not measured: a reason should stay shorter than the caption.
_SHOWN_WORDS = 3
_TAG = re.compile("|".join(rf"(?<![\w$]){re.escape(tag)}(?![\w$])" for tag in _TAGS))
_RATING = re.compile(rf"({'|'.join(_RATINGS)}) (-1|[0-3]|None)\b")


@dataclass(frozen=True)
class Explanation:
    """The evidence for each candidate of a caption, in the order of its annotations."""

    actions: tuple[Evidence, ...]
    attributes: tuple[Evidence, ...]
    relations: tuple[Evidence, ...]


@cache
def _parser() -> CaptionParser:
    return CaptionParser()


def explain(caption: str, second_opinion: bool = False) -> Explanation:
    """Parse a caption and return the evidence for its scores, with the names of features in plain
    words.

    Args:
        caption: the original caption.
        second_opinion: whether the scores are those after the second opinion.

    Returns:
        The score of each candidate, and the features that contribute most to its log odds.

    Raises:
        ModelMissing: no spaCy model is installed.
        OpinionMissing: the weights of the second opinion cannot be used.
    """
    graph = build_graph(_parser().parse([normalize(caption)])[0])
    verifier = load_verifier()
    found: tuple[list[Evidence], ...] = verifier.evidence(graph, caption)
    if second_opinion:
        found = _with_opinion(found, graph, caption, verifier)
    return Explanation(*(tuple(_in_words(one) for one in part) for part in found))


def _with_opinion(
    found: tuple[list[Evidence], ...], graph: CaptionGraph, caption: str, verifier: Verifier
) -> tuple[list[Evidence], ...]:
    """Return evidence for the scores after the second opinion. If a second opinion was asked for,
    the reasons begin with the log odds that it adds, and with the words without which it would
    differ most."""
    revised = revise(verifier.score([graph], [caption]), [graph], load_opinion())
    if not revised.asked:
        return found
    words = graph.parse.words[:_READ_WORDS]
    whole, *without = load_opinion().ask(
        [words, *(words[:gone] + words[gone + 1 :] for gone in range(len(words)))]
    )

    def weights(token: int | None) -> list[float]:
        """Return what each word adds to the log odds of the action at `token` ([] if unread), or of
        complexity."""
        if token is None:
            return [whole.complex - one.complex for one in without]
        if token >= len(whole.actions):
            return []
        # Without its verb there is no action: the verb has all of the weight.
        odds = float(whole.actions[token])
        return [
            odds if gone == token else odds - float(one.actions[token - (gone < token)])
            for gone, one in enumerate(without)
        ]

    def moved(before: Evidence, after: float, token: int | None = None) -> Evidence:
        each = weights(token)
        read = sorted(sorted(range(len(each)), key=lambda at: -abs(each[at]))[:_SHOWN_WORDS])
        reason = (
            f"second opinion, by {', '.join(words[at] for at in read)}"
            if read
            else "second opinion"
        )
        added = float(_log_odds(after) - _log_odds(before.score))
        return Evidence(after, ((reason, added), *before.reasons))

    tokens = [action.token for action in graph.actions]
    actions, *details = ([float(score) for score in scores] for scores in revised.scores)
    return (
        list(map(moved, found[0], actions, tokens)),
        *(list(map(moved, part, scores)) for part, scores in zip(found[1:], details, strict=True)),
    )


def _log_odds(score: float) -> float:
    inside = min(max(score, 1e-4), 1 - 1e-4)
    return math.log(inside / (1 - inside))


def _in_words(evidence: Evidence) -> Evidence:
    said: dict[str, float] = {}
    for name, odds in evidence.reasons:  # two features may have the same words
        said[in_words(name)] = said.get(in_words(name), 0.0) + odds
    return Evidence(evidence.score, tuple(sorted(said.items(), key=lambda share: -abs(share[1]))))


def in_words(name: str) -> str:
    """Return the name of a feature with the tags and ratings of the tables above spelled out."""
    # None is the rating of a word that the caption lacks, such as the subject of a verb without
    # one.
    name = _RATING.sub(
        lambda found: "absent" if found[2] == "None" else _RATINGS[found[1]][int(found[2]) + 1],
        name,
    )
    return _TAG.sub(lambda found: _TAGS[found[0]], name)
