"""What the verifier looks at: named features of one candidate in its caption, each a number (1 where nothing is said).

The features of the caption itself (`CaptionContext.features`) belong to every candidate too; they are kept apart
because they are weighed once. Names are readable, so that a score can be taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from filters.captions.graph import (
    ATTRIBUTE_KINDS,
    NAME_TAGS,
    VERB_TAGS,
    Action,
    Attribute,
    CaptionGraph,
    Object,
    Relation,
    descriptor_group,
    subject_of,
)
from filters.captions.lexicon import VerbRating, first_names, is_first_name, noun_rating, verb_rating
from filters.captions.normalise import is_title_case

Features = dict[str, float]
Parts = tuple[Sequence[tuple[str, ...]], Sequence[str], Features]
"""Features of a candidate: groups of names of value 1 that many candidates share, so that each is weighed once; other
names of value 1, those with words in them; numbers by name. No name stands twice."""

_STOCK = re.compile(r"stock|royalty|footage")
_YEAR = re.compile(r"\b(?:1[89]|20)\d\d\b")
_DIGIT = re.compile(r"\d")
_FILE = re.compile(r"_|\.(?:jpe?g|png|gif)\b|^\S+$", re.I)
_MARKS = [(mark, f"caption: has {mark}") for mark in "|-:,.#–—&/"]
_SEPARATORS = frozenset("|-:–—/")
_ADDRESS = frozenset({"you", "your", "we", "our", "i", "my", "us"})
_PERSON_WORDS = frozenset({"i", "he", "she", "they", "you", "we", "who", "him", "her", "them"})
_FINITE = frozenset({"VBZ", "VBP", "VBD"})
_OBJECTS = frozenset({"dobj", "obj"})
_PREPOSITIONS = frozenset({"prep", "agent"})
_ATTRIBUTE: dict[str, str] = {kind: f"attribute {kind}" for kind in ATTRIBUTE_KINDS}
_UNRATED = -1
_UNKNOWN, _PERSON = (_UNRATED, _UNRATED), (3, 0)
_UNRATED_VERB = VerbRating(_UNRATED, _UNRATED, _UNRATED)
_CACHED = 5_000  # combinations of tags and ratings, or words


class CaptionContext:
    """What is the same for every candidate of a caption; made once per caption."""

    def __init__(self, graph: CaptionGraph, original: str):
        parse = graph.parse
        self.graph, self.parse, self.children = graph, parse, graph.children
        self.lower = [word.lower() for word in parse.words]
        tags, count = parse.tags, len(parse.words)
        words = set(self.lower)
        self._nouns = self._rated()
        self.title_case = is_title_case(original)
        facts = (
            (self.title_case, "caption: title case"),
            (count < 6, "caption: short"),
            (_STOCK.search(original.lower()), "caption: stock site"),
            (original.rstrip().endswith("."), "caption: ends with a stop"),
            (self._has_clause(), "caption: has a clause"),
            (not words.isdisjoint(_ADDRESS), "caption: addresses the reader"),
            ("?" in original or "how" in words, "caption: asks"),
            ("!" in original, "caption: exclaims"),
            (self.lower[:1] == ["the"], "caption: begins with the"),
            ("by" in words and self._by_a_name(), "caption: by a name"),
            (_YEAR.search(original), "caption: year"),
            (_FILE.search(original), "caption: file name"),
            (not original.isascii(), "caption: other letters"),
            (not words.isdisjoint(first_names()), "caption: first name"),
        )
        self.features: Features = {name: 1.0 for fact, name in facts if fact}
        shares = (
            (min(count, 40) / 40, "caption: length"),
            (len(_DIGIT.findall(original)) / max(len(original), 1), "caption: share of digits"),
            (sum([tag in VERB_TAGS for tag in tags]) / 5, "caption: verbs"),
            (sum([page == 2 for _, page in self._nouns]) / 3, "caption: page words"),
            (sum([tag in NAME_TAGS for tag in tags]) / max(count, 1), "caption: share of names"),
        )
        for share, name in shares:
            if share:
                self.features[name] = share
        for mark, name in _MARKS:
            if mark in original:
                self.features[name] = 1.0

    def _rated(self) -> list[tuple[int, int]]:
        """For each word (can act, is a page word), -1 where that is unknown; a name of a person can act."""
        named, found, before = first_names(), [], False
        for lower, tag in zip(self.lower, self.parse.tags, strict=True):
            first = lower in named
            rating = noun_rating(lower)
            if lower in _PERSON_WORDS:
                found.append(_PERSON)
            elif rating:
                found.append((rating.actor, rating.shop))
            else:
                found.append(_PERSON if (first or before) and tag in NAME_TAGS else _UNKNOWN)
            before = first
        return found

    def _has_clause(self) -> bool:
        tags = self.parse.tags
        heads = [head for dep, head in zip(self.parse.deps, self.parse.heads, strict=True) if dep == "nsubj"]
        return any([tags[head] in _FINITE for head in heads])

    def _by_a_name(self) -> bool:
        return any(word == "by" and self.tag(token + 1) in NAME_TAGS for token, word in enumerate(self.lower))

    def tag(self, token: int) -> str:
        """The tag at a place, START or END past the ends."""
        if token < 0:
            return "START"
        return self.parse.tags[token] if token < len(self.parse.tags) else "END"

    def noun(self, token: int) -> tuple[int, int]:
        """(can act, is a page word) of the noun at a place; names of persons can act; -1 where unknown."""
        return self._nouns[token]


def action_parts(context: CaptionContext, action: Action) -> Parts:
    """Features of a verb candidate."""
    parse, token = context.parse, action.token
    tag, head, last = parse.tags[token], parse.heads[token], len(parse.words) - 1
    visible = (verb_rating(action.lemma) or _UNRATED_VERB).visible
    before, after = context.tag(token - 1), context.tag(token + 1)
    prior = parse.words[:token]
    word, lemma = context.lower[token], action.lemma
    form = "base" if word == lemma else next((end for end in ("ing", "ed", "s") if word.endswith(end)), "irregular")
    groups = [
        _verb_names(lemma, tag),
        _before_names(before, context.tag(token - 2) if token else "START"),
        _after_names(after, context.tag(token + 2)),
        _role_names(parse.deps[token], parse.tags[head] if head != token else "none", tag, context.title_case),
        _form_names(form, action.tagged, before, after, context.noun(token - 1)[0] if token else None),
    ]
    names = [f"word {word}", f"verb {lemma}", f"ending {word[-3:]}", f"{lemma} {form}"]
    if token:
        names.append(f"word before {context.lower[token - 1]}")
    if token < last:
        names.append(f"word after {context.lower[token + 1]}")
    _add_complement(context, token, groups, names)
    _add_subject(context, token, visible, groups, names)
    actors = any([context.noun(index)[0] == 3 for index in range(token)])
    numbers = {
        "capitalised": float(parse.words[token][0].isupper()),
        "head to the right": float(head > token),
        "head to the left": float(head < token),
        "place in the caption": token / len(parse.words),
        "first word": float(token == 0),
        "last word": float(token == last),
        "visible": max(visible, 0) / 3,
        "visible, short caption": float(last < 4) * max(visible, 0) / 3,
        "actor before": float(actors),
        "visible with actor before": float(actors) * max(visible, 0) / 3,
        "first name before": float(any([word[0].isupper() and is_first_name(word.lower()) for word in prior])),
        "separator before": float(not _SEPARATORS.isdisjoint(prior)),
        "separator after": float(not _SEPARATORS.isdisjoint(parse.words[token + 1 :])),
    }
    return groups, names, numbers


# Groups of names without words in them are made once for each combination that occurs.


@lru_cache(maxsize=_CACHED)
def _verb_names(lemma: str, tag: str) -> tuple[str, ...]:
    visible, shop, other_word = verb_rating(lemma) or _UNRATED_VERB
    return (
        f"visible {visible}",
        f"shop word {shop}",
        f"other word {other_word}",
        f"visible {visible} as {tag}",
        f"other word {other_word} as {tag}",
    )


@lru_cache(maxsize=_CACHED)
def _before_names(before: str, two_before: str) -> tuple[str, ...]:
    return f"before {before}", f"two before {two_before}"


@lru_cache(maxsize=_CACHED)
def _after_names(after: str, two_after: str) -> tuple[str, ...]:
    return f"after {after}", f"two after {two_after}"


@lru_cache(maxsize=_CACHED)
def _role_names(role: str, head: str, tag: str, title_case: bool) -> tuple[str, ...]:
    return f"role {role}", f"head {head}", f"tag {tag}", f"tag {tag}, title case {title_case:d}"


@lru_cache(maxsize=_CACHED)
def _form_names(form: str, tagged: bool, before: str, after: str, acts_before: int | None) -> tuple[str, ...]:
    """The verb's inflection, with what stands around it: the ground on which disguised verbs are told from nouns."""
    what = f"{'verb' if tagged else 'disguised'} form {form}"
    return (
        what,
        f"{what}, {before} before",
        f"{what}, {after} after",
        f"{what}, acts {acts_before} before",
        f"{before} {form} {after}",
    )


def _add_complement(context: CaptionContext, token: int, groups: list[tuple[str, ...]], names: list[str]) -> None:
    deps, children = context.parse.deps, context.children.get(token, ())
    groups.append(_complement_names(context.parse.tags[token], tuple(sorted({deps[child] for child in children}))))
    for child in children:
        if deps[child] in _PREPOSITIONS:
            names.append(f"with {context.lower[child]}")
            break


@lru_cache(maxsize=_CACHED)
def _complement_names(tag: str, roles: tuple[str, ...]) -> tuple[str, ...]:
    has_object, has_preposition = not _OBJECTS.isdisjoint(roles), not _PREPOSITIONS.isdisjoint(roles)
    named = [f"has {role}" for role in roles]
    named += ["with an object"] * has_object + ["with a preposition"] * has_preposition
    named.append(
        f"{tag} {'with' if has_preposition else 'without'} preposition, {'with' if has_object else 'without'} object"
    )
    return tuple(named)


def _add_subject(
    context: CaptionContext, token: int, visible: int, groups: list[tuple[str, ...]], names: list[str]
) -> None:
    parse = context.parse
    found = subject_of(parse, context.children, token)
    if found is None:
        near = [place for place in range(token - 1, max(-1, token - 5), -1) if parse.tags[place][:2] in ("NN", "PR")]
        found = (near[0], "near") if near else None
    if found is None:
        names.append("said of nobody")
        return
    place, tie = found
    names.append(f"said of {context.lower[place]}")
    if place:
        names.append(f"before the subject {parse.tags[place - 1]}")
    groups.append(_subject_names(parse.tags[place], tie, parse.tags[token], *context.noun(place), visible))


@lru_cache(maxsize=_CACHED)
def _subject_names(subject: str, tie: str, tag: str, acts: int, page: int, visible: int) -> tuple[str, ...]:
    return (
        f"said of a {subject}",
        f"tie {tie}",
        f"tie {tie} as {tag}",
        f"subject acts {acts}",
        f"subject page word {page}",
        f"tie {tie}, subject acts {acts}",
        f"subject acts {acts}, visible {visible}",
        f"tie {tie}, subject acts {acts}, visible {visible}",
    )


def attribute_parts(context: CaptionContext, attribute: Attribute) -> Parts:
    """Features of an attribute of an object."""
    token, owner = attribute.token, context.graph.objects[attribute.object]
    kind, word = attribute.kind, context.lower[token]
    groups, names, numbers = _tie_parts(context, token, owner, _ATTRIBUTE[kind], word)
    groups.append(_descriptor_names(kind, descriptor_group(word) or "other", _side(token, owner.token)))
    groups.append(_place_names(kind, _mark_before(context, token), context.tag(token + 1)))
    names += f"describes {word}", f"describes ..{word[-3:]}"
    return groups, names, numbers


@lru_cache(maxsize=_CACHED)
def _descriptor_names(kind: str, group: str, side: str) -> tuple[str, ...]:
    return f"group {group}", f"{kind}, group {group}", f"{kind}, {side}"


@lru_cache(maxsize=_CACHED)
def _place_names(kind: str, mark: str, after: str) -> tuple[str, ...]:
    return f"{kind}, behind {mark}", f"{kind}, before {after}"


def relation_parts(context: CaptionContext, relation: Relation) -> Parts:
    """Features of a relation between two objects."""
    source, target = context.graph.objects[relation.source], context.graph.objects[relation.target]
    groups, names, numbers = _tie_parts(context, relation.token, source, "relation", relation.text)
    names.append(f"target {context.lower[target.token]}")
    groups.append(
        _relation_names(
            relation.text, source.kind, context.noun(source.token)[0], target.kind, *context.noun(target.token)
        )
    )
    return groups, names, numbers


@lru_cache(maxsize=_CACHED)
def _relation_names(text: str, source: str, source_acts: int, target: str, acts: int, page: int) -> tuple[str, ...]:
    return (
        f"target is a {target}",
        f"target acts {acts}",
        f"target page word {page}",
        f"{text} {target}",
        f"{text} between {source} and {target}",
        f"{text} from {source_acts} to {acts}",
    )


def _side(token: int, owner: int) -> str:
    if token == owner:
        return "is the head"
    if token < owner:
        return "just before" if owner - token == 1 else "before"
    return "just behind" if token - owner == 1 else "behind"


def _mark_before(context: CaptionContext, token: int) -> str:
    if token == 0:
        return "nothing"
    before = context.lower[token - 1]
    return before if not before[0].isalnum() else "a word"


def _tie_parts(
    context: CaptionContext, token: int, owner: Object, what: str, word: str
) -> tuple[list[tuple[str, ...]], list[str], Features]:
    parse = context.parse
    place = owner.token
    head = context.lower[place]
    groups = [
        _what_names(what, parse.tags[token], context.title_case),
        _owner_names(what, parse.tags[place], owner.kind, *context.noun(place)),
        _between_names(context.tag(token - 1), context.tag(token + 1)),
    ]
    names = [f"{what}, {word}", f"owner {head}", f"owner ..{head[-3:]}"]
    return (
        groups,
        names,
        {
            "capitalised": float(parse.words[token][0].isupper()),
            "place in the caption": token / len(parse.words),
        },
    )


@lru_cache(maxsize=_CACHED)
def _what_names(what: str, tag: str, title_case: bool) -> tuple[str, ...]:
    return what, f"{what}, tag {tag}", f"{what}, title case {title_case:d}"


@lru_cache(maxsize=_CACHED)
def _owner_names(what: str, tag: str, kind: str, acts: int, page: int) -> tuple[str, ...]:
    return (
        f"{what} of {kind}",
        f"owner is a {tag}",
        f"owner acts {acts}",
        f"owner page word {page}",
        f"{what}, owner acts {acts}",
    )


@lru_cache(maxsize=_CACHED)
def _between_names(before: str, after: str) -> tuple[str, ...]:
    return f"before {before}", f"after {after}"


def merged(parts: Parts) -> Features:
    """The features of a candidate, by name."""
    groups, names, numbers = parts
    return {**{name: 1.0 for group in (*groups, names) for name in group}, **numbers}
