"""From a parse to a `CaptionGraph`: the objects of a caption, their attributes, actions and relations.

The graph is complete and lenient: it holds every candidate. Which of them count, and from which verifier score on, is a
rule's business (`rules.py`), so that presets differ without a new parse. Definitions after method.md section 2.1
(DiHT's parser is not published).
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from filters.captions.lexicon import verb_lemma, words
from filters.captions.parse import Parse

VERB_TAGS = frozenset({"VB", "VBD", "VBG", "VBN", "VBP", "VBZ"})
NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
NAME_TAGS = frozenset({"NNP", "NNPS"})
COPULA = frozenset(
    {"be", "am", "is", "are", "was", "were", "been", "being", "'s", "'re", "'m", "’s", "’re", "’m", "ai"}
)
_PRONOUNS = frozenset({"i", "he", "she", "they", "we", "you", "who", "him", "her", "them", "it"})
_ING = re.compile(r"[A-Za-z]{3,}ing")
# A noun with one of these labels belongs to another.
_INNER = frozenset({"compound", "nmod", "amod", "nummod", "quantmod", "advmod", "npadvmod"})
_SUBJECTS = frozenset({"nsubj", "nsubjpass", "csubj"})
_RELATIVE_TAGS = frozenset({"WP", "WDT"})
_OBJECTS = frozenset({"dobj", "obj", "dative", "oprd"})


class Object(NamedTuple):
    """A thing, being, place or name: the head of a noun phrase."""

    text: str
    """Head with its compounds, as in the parsed text ("dining table")."""
    start: int
    end: int
    """Character span in the parsed text."""
    kind: str
    """noun, name or pronoun."""
    token: int


class Attribute(NamedTuple):
    """Something said of one object."""

    object: int
    text: str
    kind: str
    """adjective, predicate, participle, number, or the lexicon group of a noun used so: colour, material, size, state,
    pattern."""
    token: int


class Participant(NamedTuple):
    """An object's part in an action."""

    object: int
    role: str
    """subject, object, agent, the preposition by which it is attached, or near (no syntactic tie: the noun before)."""


class Action(NamedTuple):
    """A verb candidate."""

    verb: str
    lemma: str
    start: int
    end: int
    tagged: bool
    """Whether the tagger took it for a verb; others are -ing forms tagged as noun or adjective."""
    participants: tuple[Participant, ...]
    token: int


class Relation(NamedTuple):
    """Two objects tied by a preposition or as owner and owned."""

    source: int
    target: int
    text: str
    token: int


@dataclass(frozen=True, slots=True)
class CaptionGraph:
    """What one caption says. Indices of objects refer to `objects`; tokens to the parse."""

    parse: Parse
    objects: tuple[Object, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    actions: tuple[Action, ...] = ()
    relations: tuple[Relation, ...] = ()
    object_at: dict[int, int] = field(default_factory=dict)
    """Token to object, for every token of an object's compound."""


def build_graph(parse: Parse) -> CaptionGraph:
    """The graph of one parsed caption."""
    children: dict[int, list[int]] = defaultdict(list)
    for token, head in enumerate(parse.heads):
        if head != token:
            children[head].append(token)
    objects, object_at = _objects(parse, children)
    return CaptionGraph(
        parse=parse,
        objects=tuple(objects),
        object_at=object_at,
        attributes=tuple(_attributes(parse, children, objects, object_at)),
        actions=tuple(_actions(parse, children, object_at)),
        relations=tuple(_relations(parse, object_at)),
    )


def _objects(parse: Parse, children: dict[int, list[int]]) -> tuple[list[Object], dict[int, int]]:
    objects: list[Object] = []
    object_at: dict[int, int] = {}
    for token, tag in enumerate(parse.tags):
        lower = parse.words[token].lower()
        is_noun = tag in NOUN_TAGS and any(char.isalpha() for char in lower)
        is_pronoun = lower in _PRONOUNS and tag in ("PRP", "WP")
        if parse.deps[token] in _INNER or not (is_noun or is_pronoun):
            continue
        first = token
        while first and first - 1 in children[token] and parse.deps[first - 1] == "compound":
            first -= 1
        start, end = parse.starts[first], parse.starts[token] + len(parse.words[token])
        kind = "pronoun" if not is_noun else "name" if tag in NAME_TAGS else "noun"
        for part in range(first, token + 1):
            object_at[part] = len(objects)
        objects.append(Object(parse.text[start:end], start, end, kind, token))
    return objects, object_at


def _attributes(
    parse: Parse, children: dict[int, list[int]], objects: list[Object], object_at: dict[int, int]
) -> list[Attribute]:
    found: list[Attribute] = []

    def add(owner: int, token: int, kind: str) -> None:
        found.append(Attribute(owner, parse.words[token], kind, token))
        for other in children[token]:  # "red and white": both are said of it
            if parse.deps[other] == "conj" and parse.tags[other] in ("JJ", "JJR", "JJS", "VBN", "NN"):
                found.append(Attribute(owner, parse.words[other], kind, other))

    for owner, thing in enumerate(objects):
        for token in children[thing.token]:
            kind = _modifier_kind(parse, token)
            if kind:
                add(owner, token, kind)
        if parse.deps[thing.token] in _SUBJECTS:
            head = parse.heads[thing.token]
            for token in children[head]:
                if parse.deps[token] == "acomp":
                    add(owner, token, "predicate")
    # An adjective that the parser made the head ("black and white" alone) or hung elsewhere is no object's attribute.
    return [attribute for attribute in found if attribute.token not in object_at or attribute.kind in _GROUPS]


_GROUPS = ("colour", "material", "size", "pattern", "state")


def _modifier_kind(parse: Parse, token: int) -> str | None:
    """What a child of a noun says about it, None for determiners, names and other words that say nothing."""
    dep, tag, lower = parse.deps[token], parse.tags[token], parse.words[token].lower()
    if dep in ("amod", "compound", "nmod", "appos", "npadvmod"):
        for group in _GROUPS:
            if lower in words(group) and (dep != "appos" or group == "colour"):
                return group
    if dep in ("amod", "acl", "relcl") and tag in ("JJ", "JJR", "JJS"):
        return "adjective"
    if dep == "amod" and tag in ("VBN", "VBG"):
        return "participle"
    if dep == "nummod" and tag == "CD":
        return "number"
    return None


def is_action_candidate(parse: Parse, token: int) -> bool:
    """A verb that is neither auxiliary nor copula, or an -ing form in the guise of a noun or adjective."""
    word, tag = parse.words[token], parse.tags[token]
    if word.lower() in COPULA:
        return False
    if tag in VERB_TAGS:
        return parse.deps[token] not in ("aux", "auxpass")
    return tag in ("NN", "NNP", "JJ") and _ING.fullmatch(word) is not None


def _actions(parse: Parse, children: dict[int, list[int]], object_at: dict[int, int]) -> list[Action]:
    found = []
    for token in range(len(parse.words)):
        if not is_action_candidate(parse, token):
            continue
        word, start = parse.words[token], parse.starts[token]
        found.append(
            Action(
                verb=word,
                lemma=verb_lemma(word.lower()) or word.lower(),
                start=start,
                end=start + len(word),
                tagged=parse.tags[token] in VERB_TAGS,
                participants=tuple(_participants(parse, children, object_at, token)),
                token=token,
            )
        )
    return found


def subject_of(parse: Parse, children: dict[int, list[int]], token: int) -> tuple[int, str] | None:
    """The token of whom the verb is said and the tie between them, None where the syntax names nobody."""
    head, dep = parse.heads[token], parse.deps[token]
    for child in children[token]:
        if parse.deps[child] in _SUBJECTS:
            if dep == "relcl" and parse.tags[child] in _RELATIVE_TAGS:
                return head, "modified"  # "a dog that runs": the dog does
            return child, "subject"
    if head == token:
        return None
    if dep in ("acl", "relcl"):
        return head, "modified"
    if dep == "amod":
        return head, "adjectival"
    if dep in ("conj", "advcl", "xcomp", "ccomp"):
        for child in children[head]:
            if parse.deps[child] in _SUBJECTS:
                return child, "shared"
        if parse.deps[head] == "acl":
            return parse.heads[head], "shared"
    return None


def _participants(
    parse: Parse, children: dict[int, list[int]], object_at: dict[int, int], token: int
) -> list[Participant]:
    found: dict[int, str] = {}
    subject = subject_of(parse, children, token)
    if subject and subject[0] in object_at:
        found[object_at[subject[0]]] = "subject"
    for child in children[token]:
        dep = parse.deps[child]
        if dep in _OBJECTS and child in object_at:
            found.setdefault(object_at[child], "object")
        elif dep in ("prep", "agent"):
            for target in children[child]:
                if parse.deps[target] == "pobj" and target in object_at:
                    found.setdefault(object_at[target], "agent" if dep == "agent" else parse.words[child].lower())
    found.pop(object_at.get(token, -1), None)  # an -ing form may itself have been read as an object
    return [Participant(place, role) for place, role in sorted(found.items())]


def _relations(parse: Parse, object_at: dict[int, int]) -> list[Relation]:
    found = []
    for token, dep in enumerate(parse.deps):
        if token not in object_at:
            continue
        head = parse.heads[token]
        if dep == "pobj" and parse.deps[head] == "prep" and parse.heads[head] in object_at:
            source = object_at[parse.heads[head]]
            text, place = parse.words[head].lower(), head
        elif dep == "poss" and head in object_at:
            source, text, place = object_at[head], "of", token
        else:
            continue
        if source != object_at[token]:
            found.append(Relation(source, object_at[token], text, place))
    return found
