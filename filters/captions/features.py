"""What the verifier looks at: named features of one candidate in its caption, each a number (1 where nothing is said).

The features of the caption itself (`CaptionContext.features`) belong to every candidate too; they are kept apart
because they are weighed once. Names are readable, so that a score can be taken apart.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from filters.captions.graph import VERB_TAGS, Action, Attribute, CaptionGraph, Relation, subject_of
from filters.captions.lexicon import is_first_name, noun_rating, verb_rating
from filters.captions.normalise import is_title_case

Features = dict[str, float]

_STOCK = re.compile(r"stock|royalty|shutterstock|footage", re.I)
_MARKS = "|-:,.#–—&/"
_SEPARATORS = frozenset("|-:–—/")
_ADDRESS = frozenset({"you", "your", "we", "our", "i", "my", "us"})
_PERSON_WORDS = frozenset({"i", "he", "she", "they", "you", "we", "who", "him", "her", "them"})
_UNRATED = -1


class CaptionContext:
    """What is the same for every candidate of a caption; made once per caption."""

    def __init__(self, graph: CaptionGraph, original: str):
        parse = graph.parse
        self.graph, self.parse = graph, parse
        self.lower = [word.lower() for word in parse.words]
        self.children: dict[int, list[int]] = defaultdict(list)
        for token, head in enumerate(parse.heads):
            if head != token:
                self.children[head].append(token)
        words = set(self.lower)
        self._nouns = [self._rate(token) for token in range(len(parse.words))]
        share = sum(map(str.isdigit, original)) / max(len(original), 1)
        values = {
            "caption: title case": float(is_title_case(original)),
            "caption: length": min(len(parse.words), 40) / 40,
            "caption: short": float(len(parse.words) < 6),
            "caption: share of digits": share,
            "caption: stock site": float(_STOCK.search(original) is not None),
            "caption: ends with a stop": float(original.rstrip().endswith(".")),
            "caption: verbs": sum([tag in VERB_TAGS for tag in parse.tags]) / 5,
            "caption: has a clause": float(self._has_clause()),
            "caption: addresses the reader": float(not words.isdisjoint(_ADDRESS)),
            "caption: asks": float("?" in original or "how" in words),
            "caption: exclaims": float("!" in original),
            "caption: page words": sum([page == 2 for _, page in self._nouns]) / 3,
        }
        self.title_case = bool(values["caption: title case"])
        self.features: Features = {name: value for name, value in values.items() if value}
        for mark in _MARKS:
            if mark in original:
                self.features[f"caption: has {mark}"] = 1.0

    def _has_clause(self) -> bool:
        return any(
            self.parse.deps[child] == "nsubj"
            for token, tag in enumerate(self.parse.tags)
            if tag in ("VBZ", "VBP", "VBD")
            for child in self.children[token]
        )

    def tag(self, token: int) -> str:
        """The tag at a place, START or END past the ends."""
        if token < 0:
            return "START"
        return self.parse.tags[token] if token < len(self.parse.tags) else "END"

    def noun(self, token: int) -> tuple[int, int]:
        """(can act, is a page word) of the noun at a place; names of persons can act; -1 where unknown."""
        return self._nouns[token]

    def _rate(self, token: int) -> tuple[int, int]:
        lower = self.lower[token]
        if lower in _PERSON_WORDS:
            return 3, 0
        rating = noun_rating(lower)
        if self.parse.tags[token] in ("NNP", "NNPS") and rating is None:
            named = is_first_name(lower) or (token > 0 and is_first_name(self.lower[token - 1]))
            return (3, 0) if named else (_UNRATED, _UNRATED)
        return tuple(rating) if rating else (_UNRATED, _UNRATED)  # type: ignore[return-value]


def action_features(context: CaptionContext, action: Action) -> Features:
    """Features of a verb candidate."""
    parse, token = context.parse, action.token
    tag, rating = parse.tags[token], verb_rating(action.lemma) or (_UNRATED, _UNRATED, _UNRATED)
    visible, shop, other_word = rating
    head = parse.heads[token]
    features: Features = {}
    for name in (
        f"tag {tag}",
        f"role {parse.deps[token]}",
        f"head {parse.tags[head] if head != token else 'none'}",
        f"before {context.tag(token - 1)}",
        f"two before {context.tag(token - 2) if token else 'START'}",
        f"after {context.tag(token + 1)}",
        f"two after {context.tag(token + 2)}",
        f"word {context.lower[token]}",
        f"verb {action.lemma}",
        f"ending {context.lower[token][-3:]}",
        f"visible {visible}",
        f"shop word {shop}",
        f"other word {other_word}",
        f"visible {visible} as {tag}",
        f"other word {other_word} as {tag}",
        f"tag {tag}, title case {context.title_case:d}",
        *(f"has {parse.deps[child]}" for child in context.children[token]),
        *_neighbour_words(context, token),
        *_complement(context, token),
        *_subject(context, token, visible),
    ):
        features[name] = 1.0
    actors = any(context.noun(place)[0] == 3 for place in range(token))
    left, right = parse.words[:token], parse.words[token + 1 :]
    features.update(
        {
            "capitalised": float(parse.words[token][0].isupper()),
            "head to the right": float(head > token),
            "head to the left": float(head < token),
            "place in the caption": token / len(parse.words),
            "first word": float(token == 0),
            "last word": float(token == len(parse.words) - 1),
            "visible": max(visible, 0) / 3,
            "visible, short caption": float(len(parse.words) < 5) * max(visible, 0) / 3,
            "actor before": float(actors),
            "visible with actor before": float(actors) * max(visible, 0) / 3,
            "first name before": float(any(is_first_name(word.lower()) and word[0].isupper() for word in left)),
            "separator before": float(any(word in _SEPARATORS for word in left)),
            "separator after": float(any(word in _SEPARATORS for word in right)),
        }
    )
    return features


def _neighbour_words(context: CaptionContext, token: int) -> Iterator[str]:
    if token:
        yield f"word before {context.lower[token - 1]}"
    if token + 1 < len(context.lower):
        yield f"word after {context.lower[token + 1]}"


def _complement(context: CaptionContext, token: int) -> Iterator[str]:
    parse = context.parse
    has_object = any(parse.deps[child] in ("dobj", "obj") for child in context.children[token])
    prepositions = [child for child in context.children[token] if parse.deps[child] in ("prep", "agent")]
    if has_object:
        yield "with an object"
    if prepositions:
        yield "with a preposition"
        yield f"with {context.lower[prepositions[0]]}"
    yield (
        f"{parse.tags[token]} {'with' if prepositions else 'without'} preposition, "
        f"{'with' if has_object else 'without'} object"
    )


def _subject(context: CaptionContext, token: int, visible: int) -> Iterator[str]:
    parse = context.parse
    found = subject_of(parse, context.children, token)
    if found is None:
        near = [place for place in range(token - 1, max(-1, token - 5), -1) if parse.tags[place][:2] in ("NN", "PR")]
        found = (near[0], "near") if near else None
    if found is None:
        yield "said of nobody"
        return
    place, tie = found
    acts, page = context.noun(place)
    yield f"said of {context.lower[place]}"
    yield f"said of {parse.tags[place]}"
    yield f"tie {tie}"
    yield f"tie {tie} as {parse.tags[token]}"
    yield f"subject acts {acts}"
    yield f"subject page word {page}"
    yield f"tie {tie}, subject acts {acts}"
    yield f"subject acts {acts}, visible {visible}"
    yield f"tie {tie}, subject acts {acts}, visible {visible}"
    if place:
        yield f"before the subject {parse.tags[place - 1]}"


def attribute_features(context: CaptionContext, attribute: Attribute) -> Features:
    """Features of an attribute of an object."""
    owner = context.graph.objects[attribute.object]
    return _tie_features(context, attribute.token, owner.token, f"attribute {attribute.kind}", attribute.text.lower())


def relation_features(context: CaptionContext, relation: Relation) -> Features:
    """Features of a relation between two objects."""
    objects = context.graph.objects
    target = objects[relation.target]
    features = _tie_features(context, relation.token, objects[relation.source].token, "relation", relation.text)
    acts, page = context.noun(target.token)
    for name in (
        f"target {target.kind}",
        f"target acts {acts}",
        f"target page word {page}",
        f"{relation.text} {target.kind}",
    ):
        features[name] = 1.0
    return features


def _tie_features(context: CaptionContext, token: int, owner: int, what: str, word: str) -> Features:
    parse = context.parse
    acts, page = context.noun(owner)
    features: Features = {}
    kind = context.graph.objects[context.graph.object_at[owner]].kind
    for name in (
        what,
        f"{what}, {word}",
        f"{what} of {kind}",
        f"{what}, tag {parse.tags[token]}",
        f"{what}, title case {context.title_case:d}",
        f"owner {context.lower[owner]}",
        f"owner {parse.tags[owner]}",
        f"owner acts {acts}",
        f"owner page word {page}",
        f"{what}, owner acts {acts}",
        f"before {context.tag(token - 1)}",
        f"after {context.tag(token + 1)}",
    ):
        features[name] = 1.0
    features["capitalised"] = float(parse.words[token][0].isupper())
    features["place in the caption"] = token / len(parse.words)
    return features
