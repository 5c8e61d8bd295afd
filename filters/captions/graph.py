"""Build a `CaptionGraph` from a parse: the objects of a caption, their attributes, actions and
relations.

The graph is complete and lenient: it holds every candidate. A rule decides which of them count, and
from which verifier score on (`rules.py`), so thresholds change without a new parse. The definitions
are our reading of DiHT, whose parser is not published.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple, get_args

from open_diht.filters.captions import lexicon
from open_diht.filters.captions.parse import Parse
from open_diht.filters.captions.words import ACTOR, COPULA, Word, known_word

VERB_TAGS = frozenset({"VB", "VBD", "VBG", "VBN", "VBP", "VBZ"})
NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
ADJECTIVE_TAGS = frozenset({"JJ", "JJR", "JJS"})
NAME_TAGS = frozenset({"NNP", "NNPS"})
_PRONOUN_TAGS = frozenset({"PRP", "WP"})
_PRONOUNS = frozenset({"i", "he", "she", "they", "we", "you", "who", "him", "her", "them", "it"})
# Tags that verbs often get in titles and news.
_DISGUISES = frozenset({"NN", "NNS", "NNP", "NNPS", "JJ"})
_NO_SUBJECT = frozenset(
    {"START", "DT", "IN", "PRP$", "TO", "POS", "CD", "CC"}
)  # a word after one of these is no disguised verb, unless its `Word.form` is "ing"
_PLURAL_TAGS = frozenset({"NNS", "NNPS"})
_DOES = VERB_TAGS - {"VBN", "VBD"}  # verb forms that state what is done, not how something is
_NEAR = 4  # words before a disguised verb to search for its subject
# A noun with one of these labels is part of another noun phrase.
_INNER = frozenset({"compound", "nmod", "amod", "nummod", "quantmod", "advmod", "npadvmod"})
_SUBJECTS = frozenset({"nsubj", "nsubjpass", "csubj"})
_RELATIVE_TAGS = frozenset({"WP", "WDT"})
_OBJECTS = frozenset({"dobj", "obj", "dative", "oprd"})


AttributeKind = Literal[
    "adjective",
    "predicate",
    "participle",
    "number",
    "colour",
    "material",
    "size",
    "state",
    "pattern",
    "titled",
    "listed",
]
ATTRIBUTE_KINDS: tuple[AttributeKind, ...] = get_args(AttributeKind)
TIED_KINDS = tuple(kind for kind in ATTRIBUTE_KINDS if kind not in ("titled", "listed"))
"""Kinds of attributes that the parse ties to their object."""
Children = Mapping[int, Sequence[int]]
"""Token -> its children in the parse; tokens without children are absent."""


class Object(NamedTuple):
    """A thing, being, place or name: the head of a noun phrase."""

    text: str
    """The head with the compounds directly before it, as in the parsed text ("dining table")."""
    start: int
    end: int
    """Character span (start, end) in the parsed text."""
    kind: str
    """Kind: noun, name or pronoun."""
    token: int


class Attribute(NamedTuple):
    """A word that describes one object."""

    object: int
    text: str
    kind: str
    """adjective, predicate, participle, number, or the word's group in the lexicon: colour,
    material, size, state, pattern. A word tied by a conjunction ("red and big") has the kind of the
    first. Describing words that the parse does not tie to the object are titled (inside its name or
    compound) or listed (near it)."""
    token: int


class Participant(NamedTuple):
    """An object's part in an action."""

    object: int
    role: str
    """subject, object, agent, the preposition that attaches it, or near (no syntactic tie: the
    nearest object before the verb)."""


class Action(NamedTuple):
    """A verb candidate."""

    verb: str
    lemma: str
    start: int
    end: int
    tagged: bool
    """True if the tagger tagged it as a verb; False for a verb form that was tagged as a noun or an
    adjective."""
    participants: tuple[Participant, ...]
    token: int


class Relation(NamedTuple):
    """Two objects tied by a preposition, or as owner and owned."""

    source: int
    target: int
    text: str
    token: int


@dataclass(frozen=True, slots=True)
class CaptionGraph:
    """The content of one caption. Indices of objects refer to `objects`, indices of tokens to the
    parse.

    Examples:
        >>> from open_diht.filters.captions.graph import build_graph
        >>> from open_diht.filters.captions.parse import CaptionParser
        >>> graph = build_graph(CaptionParser().parse(["a brown dog catches a red ball"])[0])
        >>> [(graph.objects[known.object].text, known.text) for known in graph.attributes]
        [('dog', 'brown'), ('ball', 'red')]
    """

    parse: Parse
    words: Sequence[Word] = ()
    """Properties of each token's word without its context."""
    objects: tuple[Object, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    actions: tuple[Action, ...] = ()
    relations: tuple[Relation, ...] = ()
    object_at: dict[int, int] = field(default_factory=dict)
    """Token -> object, for every token in an object's compound. Objects that the parse does not
    have are left out."""
    children: Children = field(default_factory=dict)
    """Token -> its children in the parse; tokens without children are absent."""


def build_graph(parse: Parse) -> CaptionGraph:
    """Build the graph of one parsed caption.

    Args:
        parse: one of the results of `CaptionParser.parse`.

    Returns:
        Objects, attributes, actions and relations of the caption.

    Examples:
        >>> from open_diht.filters.captions.graph import build_graph
        >>> from open_diht.filters.captions.parse import CaptionParser
        >>> graph = build_graph(CaptionParser().parse(["a brown dog catches a red ball"])[0])
        >>> [action.verb for action in graph.actions], [known.text for known in graph.objects]
        (['catches'], ['dog', 'ball'])
    """
    words = list(map(known_word, parse.words))
    children: dict[int, list[int]] = {}
    for token, head in enumerate(parse.heads):
        if head != token:
            children.setdefault(head, []).append(token)
    objects, object_at = _objects(parse, words, children)
    # May add objects that the parse does not have.
    attributes = _attributes(parse, words, children, objects, object_at)
    return CaptionGraph(
        parse=parse,
        words=words,
        objects=tuple(objects),
        object_at=object_at,
        children=children,
        attributes=tuple(attributes),
        actions=tuple(_actions(parse, words, children, object_at)),
        relations=tuple(_relations(parse, object_at)),
    )


def _objects(
    parse: Parse, words: Sequence[Word], children: Children
) -> tuple[list[Object], dict[int, int]]:
    objects: list[Object] = []
    object_at: dict[int, int] = {}
    for token, tag in enumerate(parse.tags):
        if tag in NOUN_TAGS:
            can_be_object = words[token].has_letter
        else:
            can_be_object = tag in _PRONOUN_TAGS and words[token].lower in _PRONOUNS
        if can_be_object and parse.deps[token] not in _INNER:
            first = _first_of_compound(parse, children, token)
            for part in range(first, token + 1):
                object_at[part] = len(objects)
            objects.append(_object(parse, first, token))
    return objects, object_at


def _first_of_compound(parse: Parse, children: Children, token: int) -> int:
    first = token
    while first and first - 1 in children.get(token, ()) and parse.deps[first - 1] == "compound":
        first -= 1
    return first


def _object(parse: Parse, first: int, token: int) -> Object:
    """Return the object whose head is `token` and whose compound begins at `first`."""
    tag = parse.tags[token]
    start = parse.starts[first]
    end = parse.starts[token] + len(parse.words[token])
    kind = "name" if tag in NAME_TAGS else "noun" if tag in NOUN_TAGS else "pronoun"
    return Object(parse.text[start:end], start, end, kind, token)


def _attributes(
    parse: Parse,
    words: Sequence[Word],
    children: Children,
    objects: list[Object],
    object_at: dict[int, int],
) -> list[Attribute]:
    found: list[Attribute] = []

    def add(owner: int, token: int, kind: str) -> None:
        found.append(Attribute(owner, parse.words[token], kind, token))
        for other in children.get(token, ()):  # "red and white": both describe it
            if parse.deps[other] == "conj" and parse.tags[other] in (*ADJECTIVE_TAGS, "VBN", "NN"):
                found.append(Attribute(owner, parse.words[other], kind, other))

    for owner, thing in enumerate(objects):
        for token in children.get(thing.token, ()):
            if parse.deps[token] in _MODIFIERS and (kind := _modifier_kind(parse, words, token)):
                add(owner, token, kind)
        if parse.deps[thing.token] in _SUBJECTS:
            head = parse.heads[thing.token]
            for token in children.get(head, ()):
                if parse.deps[token] == "acomp":
                    add(owner, token, "predicate")
    # A word that is part of an object is an attribute only if its kind is a group of the lexicon.
    found = [
        attribute
        for attribute in found
        if attribute.token not in object_at or attribute.kind in _GROUPS
    ]
    return [
        *found,
        *_untied(
            parse, words, children, objects, object_at, {attribute.token for attribute in found}
        ),
    ]


_GROUPS = ("colour", "material", "size", "pattern", "state")
_TIES = frozenset({"amod", "compound", "nmod", "appos", "npadvmod"})
_MODIFIERS = _TIES | {"acl", "relcl", "nummod"}


def _untied(
    parse: Parse,
    words: Sequence[Word],
    children: Children,
    objects: list[Object],
    object_at: dict[int, int],
    taken: set[int],
) -> Iterator[Attribute]:
    """Yield describing words that the parse ties to no object. They are inside a name or compound
    (`titled`, "Elegant Wedding Card") or near their object (`listed`, "Chair - modern"). If the
    parse has no other object, another noun may become the object."""
    tied = len(objects)  # objects of the parse; more may be appended below
    for token, tag in enumerate(parse.tags):
        if not (words[token].group or tag in ADJECTIVE_TAGS) or tag in _DOES or token in taken:
            continue
        word = parse.words[token]
        head = token
        owner = object_at.get(token)
        # Climb to the head of the noun phrase.
        while owner is None and parse.deps[head] in _INNER and parse.heads[head] != head:
            head = parse.heads[head]
            owner = object_at.get(head)
        if owner is not None and objects[owner].token != token:
            yield Attribute(owner, word, "titled", token)
            continue
        beside = _nearest([thing.token for thing in objects[:tied]], token)
        if (
            beside is None
            and owner is not None
            and any(parse.deps[child] in _INNER for child in children.get(token, ()))
        ):
            beside = owner  # "Rain Coat Red": the parse made the color the head
        if beside is None:
            nouns = [
                at
                for at, tag in enumerate(parse.tags)
                if tag in NOUN_TAGS and at != token and at not in taken
            ]
            place = _nearest(nouns, token)
            if place is None:
                continue
            beside = next(
                (at for at in range(tied, len(objects)) if objects[at].token == nouns[place]),
                len(objects),
            )
            if beside == len(objects):
                objects.append(
                    _object(parse, _first_of_compound(parse, children, nouns[place]), nouns[place])
                )
        yield Attribute(beside, word, "listed", token)


def _nearest(places: Sequence[int], token: int) -> int | None:
    """Return the index of the last of the sorted `places` before the token. If all are after it,
    return the index of the first."""
    before = bisect_left(places, token)
    if before:
        return before - 1
    behind = bisect_right(places, token)
    return behind if behind < len(places) else None


@cache
def _tied_groups() -> dict[str, str]:
    """Return word -> its first group, for the words that the parse may tie to their object whatever
    their tag."""
    return {word: group for group in reversed(_GROUPS) for word in lexicon.words(group)}


def _modifier_kind(parse: Parse, words: Sequence[Word], token: int) -> str | None:
    """Return the kind of attribute that a noun's child (one of `_MODIFIERS`) is. Return None for
    other children."""
    dep = parse.deps[token]
    tag = parse.tags[token]
    if dep in _TIES:
        group = _tied_groups().get(words[token].lower)
        if group and (dep != "appos" or group == "colour"):
            return group
    if dep in ("amod", "acl", "relcl") and tag in ADJECTIVE_TAGS:
        return "adjective"
    if dep == "amod" and tag in ("VBN", "VBG"):
        return "participle"
    if dep == "nummod" and tag == "CD":
        return "number"
    return None


def is_action_candidate(parse: Parse, token: int) -> bool:
    """Return whether a token may be an action: a verb that is neither auxiliary nor copula, or a
    noun or adjective that may be a verb. In a text that is only tagged, auxiliaries are not known
    and count as verbs."""
    tag = parse.tags[token]
    if tag in VERB_TAGS:
        return (
            parse.deps[token] not in ("aux", "auxpass") and parse.words[token].lower() not in COPULA
        )
    word = known_word(parse.words[token])
    if tag not in _DISGUISES or word.form is None or word.form == "ing":
        return tag in _DISGUISES and word.form == "ing"
    before = parse.tags[token - 1] if token else "START"
    if before in _NO_SUBJECT or (word.form == "base" and before not in _PLURAL_TAGS):
        return False
    return not word.seldom or known_word(parse.words[token - 1]).noun[0] == ACTOR


def _actions(
    parse: Parse, words: Sequence[Word], children: Children, object_at: dict[int, int]
) -> list[Action]:
    found = []
    for token, tag in enumerate(parse.tags):
        # The cheap check first.
        if not (tag in VERB_TAGS or words[token].form) or not is_action_candidate(parse, token):
            continue
        word = parse.words[token]
        start = parse.starts[token]
        found.append(
            Action(
                verb=word,
                lemma=lexicon.verb_lemma(words[token].lower) or words[token].lower,
                start=start,
                end=start + len(word),
                tagged=tag in VERB_TAGS,
                participants=tuple(_participants(parse, children, object_at, token)),
                token=token,
            )
        )
    return found


def subject_of(parse: Parse, children: Children, token: int) -> tuple[int, str] | None:
    """Return the token that the verb is stated about and the tie between them. Return None if the
    syntax has none."""
    head = parse.heads[token]
    dep = parse.deps[token]
    for child in children.get(token, ()):
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
        for child in children.get(head, ()):
            if parse.deps[child] in _SUBJECTS:
                # "a man sits and reads": both verbs have the subject of the first.
                return (
                    child,
                    "shared",
                )
        if parse.deps[head] == "acl":
            return parse.heads[head], "shared"
    return None


def _participants(
    parse: Parse, children: Children, object_at: dict[int, int], token: int
) -> list[Participant]:
    found: dict[int, str] = {}
    subject = subject_of(parse, children, token)
    if subject and subject[0] in object_at:
        found[object_at[subject[0]]] = "subject"
    for child in children.get(token, ()):
        dep = parse.deps[child]
        if dep in _OBJECTS and child in object_at:
            found.setdefault(object_at[child], "object")
        elif dep in ("prep", "agent"):
            for target in children.get(child, ()):
                if parse.deps[target] == "pobj" and target in object_at:
                    found.setdefault(
                        object_at[target], "agent" if dep == "agent" else parse.words[child].lower()
                    )
    found.pop(object_at.get(token, -1), None)  # an -ing form may itself be an object
    if not found and parse.tags[token] not in VERB_TAGS:
        # A disguised verb often has no participant in the parse: take the nearest object before it.
        near = [
            object_at[place] for place in range(max(0, token - _NEAR), token) if place in object_at
        ]
        if near and near[-1] != object_at.get(token):
            found[near[-1]] = "near"
    return [Participant(place, role) for place, role in sorted(found.items())]


def _relations(parse: Parse, object_at: dict[int, int]) -> list[Relation]:
    found = []
    for token, dep in enumerate(parse.deps):
        if dep not in ("pobj", "poss") or token not in object_at:
            continue
        head = parse.heads[token]
        if dep == "pobj" and parse.deps[head] == "prep" and parse.heads[head] in object_at:
            source = object_at[parse.heads[head]]
            text = parse.words[head].lower()
            place = head
        elif dep == "poss" and head in object_at:
            source = object_at[head]
            text = "of"
            place = token
        else:
            continue
        if source != object_at[token]:
            found.append(Relation(source, object_at[token], text, place))
    return found
