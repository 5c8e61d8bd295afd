"""The names of features: each function says a group of them, and its arguments alone decide which.

Where an argument is None, because there is no such word, its group says nothing, or that there is none. No two groups
of a candidate say the same name.
"""

from __future__ import annotations

from collections.abc import Set

Features = dict[str, float]

START, END = "START", "END"
"""In place of the tags before and behind a caption."""
_OBJECTS = frozenset({"dobj", "obj"})
PREPOSITIONS = frozenset({"prep", "agent"})
"""Labels of the arcs to prepositions."""


def _named(*names: str) -> Features:
    return dict.fromkeys(names, 1.0)


# Of an action.


def verb(visible: int, shop: int, other_word: int, tag: str) -> Features:
    """The ratings of the verb."""
    return _named(
        f"visible {visible}",
        f"shop word {shop}",
        f"other word {other_word}",
        f"visible {visible} as {tag}",
        f"other word {other_word} as {tag}",
    )


def word(word: str, lemma: str, form: str) -> Features:
    """The verb itself."""
    return _named(f"word {word}", f"verb {lemma}", f"ending {word[-3:]}", f"{lemma} {form}")


def before(tag: str, two_before: str) -> Features:
    """The tags of the two words before."""
    return _named(f"before {tag}", f"two before {two_before}")


def after(tag: str, two_after: str) -> Features:
    """The tags of the two words behind."""
    return _named(f"after {tag}", f"two after {two_after}")


def word_before(word: str | None) -> Features:
    """The word before."""
    return {} if word is None else _named(f"word before {word}")


def word_after(word: str | None) -> Features:
    """The word behind."""
    return {} if word is None else _named(f"word after {word}")


def form_between(before: str, form: str, after: str) -> Features:
    """The inflection between the tags of its neighbours."""
    return _named(f"{before} {form} {after}")


def role(role: str, head: str) -> Features:
    """Its arc, and the tag of its head."""
    return _named(f"role {role}", f"head {head}")


def tag(tag: str, title_case: bool) -> Features:
    """Its tag."""
    return _named(f"tag {tag}", f"tag {tag}, title case {title_case:d}")


# The verb's inflection with what stands around it is the ground on which disguised verbs are told from nouns.


def form_before(form: str, before: str, acts: int | None) -> Features:
    """The inflection, with the tag of the word before and whether that can act."""
    return _named(form, f"{form}, {before} before", f"{form}, acts {acts} before")


def form_after(form: str, after: str) -> Features:
    """The inflection, with the tag of the word behind."""
    return _named(f"{form}, {after} after")


def then(form: str, is_first: bool, acts: int | None, page: int | None) -> Features:
    """The inflection, with the ratings of the noun behind."""
    if acts is None:
        return {}
    said = f"then acts {acts}, page word {page}"
    return _named(said, f"{form}, {said}", f"first word {form}, {said}" if is_first else f"later word {form}, {said}")


def then_word(word: str | None) -> Features:
    """The noun behind."""
    return {} if word is None else _named(f"then {word}")


def visible(rating: int, is_short: bool, actor_before: bool) -> Features:
    """How visible it is, in what captions."""
    visible = max(rating, 0) / 3
    return {
        "visible": visible,
        "visible, short caption": is_short * visible,
        "actor before": float(actor_before),
        "visible with actor before": actor_before * visible,
    }


def standing(is_capitalised: bool, to_head: int, is_first: bool, is_last: bool) -> Features:
    """Where it stands; `to_head` is above 0 where its head stands to the right."""
    return {
        "capitalised": float(is_capitalised),
        "head to the right": float(to_head > 0),
        "head to the left": float(to_head < 0),
        "first word": float(is_first),
        "last word": float(is_last),
    }


def complement(tag: str, roles: Set[str]) -> Features:
    """The labels of the arcs to its children."""
    has_preposition, has_object = not PREPOSITIONS.isdisjoint(roles), not _OBJECTS.isdisjoint(roles)
    both = f"{'with' if has_preposition else 'without'} preposition, {'with' if has_object else 'without'} object"
    return {
        "with an object": float(has_object),
        "with a preposition": float(has_preposition),
        **_named(f"{tag} {both}", *(f"has {role}" for role in roles)),
    }


def preposition(word: str | None) -> Features:
    """Its first preposition."""
    return {} if word is None else _named(f"with {word}")


def said_of(word: str | None) -> Features:
    """Of whom it is said."""
    return _named("said of nobody" if word is None else f"said of {word}")


def subject(tag: str, page: int | None, before: str) -> Features:
    """The subject: its tag, its rating as a page word, the tag of the word before."""
    if page is None:
        return {}
    said = _named(f"said of a {tag}", f"subject page word {page}")
    return said if before == START else said | _named(f"before the subject {before}")


def tie(tie: str | None, tag: str) -> Features:
    """How it is tied to its subject."""
    return {} if tie is None else _named(f"tie {tie}", f"tie {tie} as {tag}")


def acts(tie: str | None, acts: int | None, visible: int) -> Features:
    """Whether the subject can act."""
    if tie is None:
        return {}
    return _named(
        f"subject acts {acts}",
        f"tie {tie}, subject acts {acts}",
        f"subject acts {acts}, visible {visible}",
        f"tie {tie}, subject acts {acts}, visible {visible}",
    )


def form_visible(form: str, visible: int, before: str, after: str) -> Features:
    """The inflection of a verb so visible, with the tags of its neighbours."""
    said = f"{form}, visible {visible}"
    return _named(said, f"{said}, behind {before}", f"{said}, before {after}")


def names_before(form: str, names: int, is_last: bool) -> Features:
    """How many names stand right before the inflection."""
    return _named(
        f"{form}, {names} names before", f"{names} names before", f"{names} names before, last word {is_last:d}"
    )


def subject_acts(form: str, acts: int | None, then_acts: int | None, visible: int) -> Features:
    """Whether its subject can act and the noun behind, whatever ties them."""
    said = f"acts {acts}, then acts {then_acts}"
    return _named(f"{form}, subject acts {acts}", said, f"{form}, {said}", f"visible {visible}, {said}")


# Of a detail: an attribute of an object or a relation between two.


def what(what: str, tag: str, title_case: bool, is_capitalised: bool) -> Features:
    """What it is."""
    return {
        what: 1.0,
        f"{what}, tag {tag}": 1.0,
        f"{what}, title case {title_case:d}": 1.0,
        "capitalised": float(is_capitalised),
    }


def what_word(what: str, word: str) -> Features:
    """Its word."""
    return _named(f"{what}, {word}")


def owner(what: str, tag: str, kind: str, acts: int, page: int) -> Features:
    """The object of which it is said."""
    return _named(
        f"{what} of {kind}",
        f"owner is a {tag}",
        f"owner acts {acts}",
        f"owner page word {page}",
        f"{what}, owner acts {acts}",
    )


def owner_word(word: str) -> Features:
    """That object's word."""
    return _named(f"owner {word}", f"owner ..{word[-3:]}")


def between(before: str, after: str) -> Features:
    """The tags of its neighbours."""
    return _named(f"before {before}", f"after {after}")


def descriptor(kind: str, group: str, side: str) -> Features:
    """What sort of word describes, and on which side of its object."""
    return _named(f"group {group}", f"{kind}, group {group}", f"{kind}, {side}")


def describes(word: str) -> Features:
    """The word that describes."""
    return _named(f"describes {word}", f"describes ..{word[-3:]}")


def place(kind: str, mark: str, after: str) -> Features:
    """What stands before it, and the tag behind."""
    return _named(f"{kind}, behind {mark}", f"{kind}, before {after}")


def target(kind: str, acts: int, page: int) -> Features:
    """The second object of a relation."""
    return _named(f"target is a {kind}", f"target acts {acts}", f"target page word {page}")


def target_word(word: str) -> Features:
    """That object's word."""
    return _named(f"target {word}")


def ends(text: str, source: str, target: str) -> Features:
    """The kinds of both objects of a relation."""
    return _named(f"{text} {target}", f"{text} between {source} and {target}")


def ends_act(text: str, source: int, target: int) -> Features:
    """Whether they can act."""
    return _named(f"{text} from {source} to {target}")
