"""What the verifier looks at: named features of one candidate in its caption, each a number (1 where nothing is said).

The features of the caption itself (`CaptionContext.parts`) belong to every candidate too; they are kept apart because
they are weighed once. Those without words in them come in groups, each a function and what it is called with: groups
recur from caption to caption, so that `verifier.py` names and weighs most of them once. Names are readable, so that a
score can be taken apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence

from filters.captions.graph import (
    ATTRIBUTE_KINDS,
    NAME_TAGS,
    NOUN_TAGS,
    VERB_TAGS,
    Action,
    Attribute,
    CaptionGraph,
    Object,
    Relation,
    subject_of,
)
from filters.captions.lexicon import VerbRating, first_names, verb_rating
from filters.captions.normalise import is_title_case
from filters.captions.words import PERSON, UNKNOWN, UNRATED, known_word

Features = dict[str, float]
Group = tuple[Callable[..., Features], *tuple[Hashable, ...]]
"""A function and its arguments, which decide the features that it gives."""
Parts = tuple[Sequence[Group], Sequence[str], Features]
"""Features: groups that many candidates share; other names, of value 1, those with words in them; shares by name. No
name stands twice."""

_STOCK = ("stock", "royalty", "footage")
_YEAR = re.compile(r"\b(?:1[89]|20)\d\d\b")
_DIGIT = re.compile(r"\d")
_FILE = re.compile(r"_|\.(?:jpe?g|png|gif)\b|^\S+$", re.I)
_MARKS = [(mark, f"caption: has {mark}") for mark in "|-:,.#–—&/"]
_SEPARATORS = frozenset("|-:–—/")
_ADDRESS = frozenset({"you", "your", "we", "our", "i", "my", "us"})
_FINITE = frozenset({"VBZ", "VBP", "VBD"})
_OBJECTS = frozenset({"dobj", "obj"})
_DESCRIBES_A_NOUN = frozenset({"JJ", "JJR", "JJS", "CD", "VBN", "DT", "PRP$", "POS", "RB"})
_PREPOSITIONS = frozenset({"prep", "agent"})
_ATTRIBUTE: dict[str, str] = {kind: f"attribute {kind}" for kind in ATTRIBUTE_KINDS}
_PLACE = "place in the caption"
_UNRATED_VERB = VerbRating(UNRATED, UNRATED, UNRATED)


class CaptionContext:
    """What is the same for every candidate of a caption; made once per caption."""

    def __init__(self, graph: CaptionGraph, original: str):
        parse = graph.parse
        self.graph, self.parse, self.children = graph, parse, graph.children
        self.lower = [word.lower for word in graph.words]
        tags, count = parse.tags, len(parse.words)
        words = set(self.lower)
        self._tags = ["START", "START", *tags, "END", "END"]
        self.names_a_person = not words.isdisjoint(first_names())
        self.nouns = self._rated()
        """For each word (can act, is a page word), -1 where that is unknown; a name of a person can act."""
        self.separated = not words.isdisjoint(_SEPARATORS)
        self.title_case = is_title_case(original)
        lower, digits = original.lower(), len(_DIGIT.findall(original))
        facts = (
            (self.title_case, "caption: title case"),
            (count < 6, "caption: short"),
            (any([word in lower for word in _STOCK]), "caption: stock site"),
            (original.rstrip().endswith("."), "caption: ends with a stop"),
            ("nsubj" in parse.deps and self._has_clause(), "caption: has a clause"),
            (not words.isdisjoint(_ADDRESS), "caption: addresses the reader"),
            ("?" in original or "how" in words, "caption: asks"),
            ("!" in original, "caption: exclaims"),
            (self.lower[:1] == ["the"], "caption: begins with the"),
            ("by" in words and self._by_a_name(), "caption: by a name"),
            (digits >= 4 and _YEAR.search(original), "caption: year"),
            (_may_be_a_file(original) and _FILE.search(original), "caption: file name"),
            (not original.isascii(), "caption: other letters"),
            (self.names_a_person, "caption: first name"),
        )
        shares = {
            "caption: length": min(count, 40) / 40,
            "caption: share of digits": digits / max(len(original), 1),
            "caption: verbs": sum(map(VERB_TAGS.__contains__, tags)) / 5,
            "caption: page words": [page for _, page in self.nouns].count(2) / 3,
            "caption: share of names": sum(map(NAME_TAGS.__contains__, tags)) / max(count, 1),
        }
        names = [name for fact, name in facts if fact]
        self.parts: Parts = (), names + [name for mark, name in _MARKS if mark in original], shares

    def _rated(self) -> list[tuple[int, int]]:
        tags, named, found = self.parse.tags, first_names(), [word.noun for word in self.graph.words]
        if self.names_a_person:
            for token, word in enumerate(self.lower):
                if word in named:  # a surname follows a first name
                    for place in range(token, min(token + 2, len(tags))):
                        if found[place] == UNKNOWN and tags[place] in NAME_TAGS:
                            found[place] = PERSON
        return found

    def _has_clause(self) -> bool:
        tags = self.parse.tags
        heads = [head for dep, head in zip(self.parse.deps, self.parse.heads, strict=True) if dep == "nsubj"]
        return any([tags[head] in _FINITE for head in heads])

    def _by_a_name(self) -> bool:
        return any(word == "by" and self.around(token)[3] in NAME_TAGS for token, word in enumerate(self.lower))

    def around(self, token: int) -> list[str]:
        """The tags of the two tokens before, the token, and the two behind; START or END past the ends."""
        return self._tags[token : token + 5]


def _may_be_a_file(text: str) -> bool:
    """Cheap, asked before the dear expression."""
    return "_" in text or "." in text or " " not in text


def action_parts(context: CaptionContext, action: Action) -> Parts:
    """Features of a verb candidate."""
    parse, lower, token = context.parse, context.lower, action.token
    head, last, lemma, word = parse.heads[token], len(parse.words) - 1, action.lemma, lower[token]
    two_before, before, tag, after, two_after = context.around(token)
    rating = verb_rating(lemma) or _UNRATED_VERB
    form = "base" if word == lemma else next((end for end in ("ing", "ed", "s") if word.endswith(end)), "irregular")
    what = f"{'verb' if action.tagged else 'disguised'} form {form}"
    actor_before = any([acts == 3 for acts, _ in context.nouns[:token]])
    groups: list[Group] = [
        (_verb, *rating, tag),
        (_before, before, two_before),
        (_after, after, two_after),
        (_role, parse.deps[token], parse.tags[head] if head != token else "none"),
        (_tag, tag, context.title_case),
        (_form_before, what, before, context.nouns[token - 1][0] if token else None),
        (_form_after, what, after),
        (_visible, rating.visible, last < 4, actor_before),
        (_standing, parse.words[token][0].isupper(), (head > token) - (head < token), token == 0, token == last),
    ]
    names = [f"word {word}", f"verb {lemma}", f"ending {word[-3:]}", f"{lemma} {form}", f"{before} {form} {after}"]
    if token:
        names.append(f"word before {lower[token - 1]}")
    if token < last:
        names.append(f"word after {lower[token + 1]}")
    if context.names_a_person and any(map(_is_name, parse.words[:token])):
        names.append("first name before")
    if context.separated:
        names += ["separator before"] * (not _SEPARATORS.isdisjoint(lower[:token]))
        names += ["separator after"] * (not _SEPARATORS.isdisjoint(lower[token + 1 :]))
    following = _noun_behind(parse.tags, token)
    if following is not None:
        groups.append((_then, form, token == 0, *context.nouns[following]))
        names.append(f"then {lower[following]}")
    _add_complement(context, token, groups, names)
    _add_subject(context, token, rating.visible, groups, names)
    return groups, names, {_PLACE: token / len(parse.words)}


def _noun_behind(tags: Sequence[str], token: int) -> int | None:
    """The last of the nouns right behind a word, or behind it and what describes them: "walking boots" or "feeding the
    two ducks"; None where there are none."""
    place = token + 1
    while place < len(tags) and tags[place] in _DESCRIBES_A_NOUN:
        place += 1
    last = None
    while place < len(tags) and tags[place] in NOUN_TAGS:
        last, place = place, place + 1
    return last


def _is_name(word: str) -> bool:
    return word[0].isupper() and word.lower() in first_names()


def _add_complement(context: CaptionContext, token: int, groups: list[Group], names: list[str]) -> None:
    deps, children = context.parse.deps, context.children.get(token, ())
    roles = {deps[child] for child in children}
    has_preposition = not _PREPOSITIONS.isdisjoint(roles)
    names += [f"has {role}" for role in roles]
    groups.append((_complement, context.parse.tags[token], has_preposition, not _OBJECTS.isdisjoint(roles)))
    if has_preposition:
        names.append(f"with {next(context.lower[child] for child in children if deps[child] in _PREPOSITIONS)}")


def _add_subject(context: CaptionContext, token: int, visible: int, groups: list[Group], names: list[str]) -> None:
    tags = context.parse.tags
    found = subject_of(context.parse, context.children, token)
    if found is None:
        near = [place for place in range(token - 1, max(-1, token - 5), -1) if tags[place][:2] in ("NN", "PR")]
        found = (near[0], "near") if near else None
    if found is None:
        names.append("said of nobody")
        return
    place, tie = found
    acts, page = context.nouns[place]
    names.append(f"said of {context.lower[place]}")
    if place:
        names.append(f"before the subject {tags[place - 1]}")
    groups += (_subject, tags[place], page), (_tie, tie, tags[token]), (_acts, tie, acts, visible)


def attribute_parts(context: CaptionContext, attribute: Attribute) -> Parts:
    """Features of an attribute of an object."""
    token, kind, owner = attribute.token, attribute.kind, context.graph.objects[attribute.object]
    word = context.lower[token]
    groups, names, shares = _tie_parts(context, token, owner, _ATTRIBUTE[kind], word)
    groups.append((_descriptor, kind, known_word(word).group or "other", _side(token, owner.token)))
    groups.append((_place, kind, _mark_before(context, token), context.around(token)[3]))
    names += f"describes {word}", f"describes ..{word[-3:]}"
    return groups, names, shares


def relation_parts(context: CaptionContext, relation: Relation) -> Parts:
    """Features of a relation between two objects."""
    text, source, target = relation.text, *(context.graph.objects[end] for end in (relation.source, relation.target))
    acts, page = context.nouns[target.token]
    groups, names, shares = _tie_parts(context, relation.token, source, "relation", text)
    groups.append((_target, target.kind, acts, page))
    names += (
        f"target {context.lower[target.token]}",
        f"{text} {target.kind}",
        f"{text} between {source.kind} and {target.kind}",
        f"{text} from {context.nouns[source.token][0]} to {acts}",
    )
    return groups, names, shares


def _tie_parts(
    context: CaptionContext, token: int, owner: Object, what: str, word: str
) -> tuple[list[Group], list[str], Features]:
    """What attributes and relations share."""
    parse, place = context.parse, owner.token
    head = context.lower[place]
    _, before, tag, after, _ = context.around(token)
    groups: list[Group] = [
        (_what, what, tag, context.title_case, parse.words[token][0].isupper()),
        (_owner, what, parse.tags[place], owner.kind, *context.nouns[place]),
        (_between, before, after),
    ]
    return groups, [f"{what}, {word}", f"owner {head}", f"owner ..{head[-3:]}"], {_PLACE: token / len(parse.words)}


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


def merged(parts: Parts) -> Features:
    """Features by name; what is not true, or 0, is absent."""
    groups, names, shares = parts
    found = [dict.fromkeys(names, 1.0), shares, *(make(*of) for make, *of in groups)]
    return {name: value for features in found for name, value in features.items() if value}


# The functions of groups. What they give depends on their arguments alone.


def _named(*names: str) -> Features:
    return dict.fromkeys(names, 1.0)


def _verb(visible: int, shop: int, other_word: int, tag: str) -> Features:
    return _named(
        f"visible {visible}",
        f"shop word {shop}",
        f"other word {other_word}",
        f"visible {visible} as {tag}",
        f"other word {other_word} as {tag}",
    )


def _before(before: str, two_before: str) -> Features:
    return _named(f"before {before}", f"two before {two_before}")


def _after(after: str, two_after: str) -> Features:
    return _named(f"after {after}", f"two after {two_after}")


def _role(role: str, head: str) -> Features:
    return _named(f"role {role}", f"head {head}")


def _tag(tag: str, title_case: bool) -> Features:
    return _named(f"tag {tag}", f"tag {tag}, title case {title_case:d}")


# The verb's inflection with what stands around it is the ground on which disguised verbs are told from nouns.


def _form_before(form: str, before: str, acts: int | None) -> Features:
    return _named(form, f"{form}, {before} before", f"{form}, acts {acts} before")


def _form_after(form: str, after: str) -> Features:
    return _named(f"{form}, {after} after")


def _then(form: str, is_first: bool, acts: int, page: int) -> Features:
    said = f"then acts {acts}, page word {page}"
    return _named(said, f"{form}, {said}", f"first word {form}, {said}" if is_first else f"later word {form}, {said}")


def _visible(rating: int, is_short: bool, actor_before: bool) -> Features:
    visible = max(rating, 0) / 3
    return {
        "visible": visible,
        "visible, short caption": is_short * visible,
        "actor before": float(actor_before),
        "visible with actor before": actor_before * visible,
    }


def _standing(is_capitalised: bool, to_head: int, is_first: bool, is_last: bool) -> Features:
    return {
        "capitalised": float(is_capitalised),
        "head to the right": float(to_head > 0),
        "head to the left": float(to_head < 0),
        "first word": float(is_first),
        "last word": float(is_last),
    }


def _complement(tag: str, has_preposition: bool, has_object: bool) -> Features:
    both = f"{'with' if has_preposition else 'without'} preposition, {'with' if has_object else 'without'} object"
    return {"with an object": float(has_object), "with a preposition": float(has_preposition), f"{tag} {both}": 1.0}


def _subject(tag: str, page: int) -> Features:
    return _named(f"said of a {tag}", f"subject page word {page}")


def _tie(tie: str, tag: str) -> Features:
    return _named(f"tie {tie}", f"tie {tie} as {tag}")


def _acts(tie: str, acts: int, visible: int) -> Features:
    return _named(
        f"subject acts {acts}",
        f"tie {tie}, subject acts {acts}",
        f"subject acts {acts}, visible {visible}",
        f"tie {tie}, subject acts {acts}, visible {visible}",
    )


def _what(what: str, tag: str, title_case: bool, is_capitalised: bool) -> Features:
    return {
        what: 1.0,
        f"{what}, tag {tag}": 1.0,
        f"{what}, title case {title_case:d}": 1.0,
        "capitalised": float(is_capitalised),
    }


def _owner(what: str, tag: str, kind: str, acts: int, page: int) -> Features:
    return _named(
        f"{what} of {kind}",
        f"owner is a {tag}",
        f"owner acts {acts}",
        f"owner page word {page}",
        f"{what}, owner acts {acts}",
    )


def _between(before: str, after: str) -> Features:
    return _named(f"before {before}", f"after {after}")


def _descriptor(kind: str, group: str, side: str) -> Features:
    return _named(f"group {group}", f"{kind}, group {group}", f"{kind}, {side}")


def _place(kind: str, mark: str, after: str) -> Features:
    return _named(f"{kind}, behind {mark}", f"{kind}, before {after}")


def _target(kind: str, acts: int, page: int) -> Features:
    return _named(f"target is a {kind}", f"target acts {acts}", f"target page word {page}")
