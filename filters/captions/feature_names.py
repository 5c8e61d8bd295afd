"""Names of features, in groups. A group is a function that returns its features for given
arguments.

Most groups are templates with one feature each. A group of templates returns nothing if its first
argument is None, because the caption has no such word.
"""

import re
from collections.abc import Callable, Set
from typing import Any, Final

Features = dict[str, float]
Make = Callable[..., Features]

START = "START"
END = "END"
"""Used as the tags before and after a caption."""
_OBJECTS = frozenset({"dobj", "obj"})
PREPOSITIONS = frozenset({"prep", "agent"})
"""Labels of arcs to prepositions."""


def _named(arguments: str, *templates: str) -> Make:
    """Return a function that fills its arguments into the templates and returns each result as a
    feature with value 1. `arguments` lists the names of its arguments, separated by spaces."""
    places = {name: place for place, name in enumerate(arguments.split())}
    fills = [
        re.sub(r"\{(\w+)", lambda name: f"{{{places[name[1]]}", template).format
        for template in templates
    ]

    def make(*values: Any) -> Features:
        return {} if values[0] is None else dict.fromkeys([fill(*values) for fill in fills], 1.0)

    return make


# Features of an action. Ratings (visible, shop, other_word; acts and page of a noun) come from the
# lexicon, `before` and `after` are tags of neighbors, `form` is the verb's inflection, `then` is
# the noun after it.

VERB: Final = _named(
    "visible shop other_word tag",
    "visible {visible}",
    "shop word {shop}",
    "other word {other_word}",
    "visible {visible} as {tag}",
    "other word {other_word} as {tag}",
)
WORD: Final = _named(
    "word ending lemma form", "word {word}", "verb {lemma}", "ending {ending}", "{lemma} {form}"
)
BEFORE: Final = _named("tag two_before", "before {tag}", "two before {two_before}")
AFTER: Final = _named("tag two_after", "after {tag}", "two after {two_after}")
WORD_BEFORE: Final = _named("word", "word before {word}")
WORD_AFTER: Final = _named("word", "word after {word}")
FORM_BETWEEN: Final = _named("before form after", "{before} {form} {after}")
ROLE: Final = _named("role head", "role {role}", "head {head}")
TAG: Final = _named("tag title_case", "tag {tag}", "tag {tag}, title case {title_case:d}")
THEN: Final = _named(
    "acts page form order",
    "then acts {acts}, page word {page}",
    "{form}, then acts {acts}, page word {page}",
    "{order} word {form}, then acts {acts}, page word {page}",
)
THEN_WORD: Final = _named("word", "then {word}")
PREPOSITION: Final = _named("word", "with {word}")
SAID_OF: Final = _named("word", "said of {word}")
TIE: Final = _named("tie tag", "tie {tie}", "tie {tie} as {tag}")
ACTS: Final = _named(
    "tie acts visible",
    "subject acts {acts}",
    "tie {tie}, subject acts {acts}",
    "subject acts {acts}, visible {visible}",
    "tie {tie}, subject acts {acts}, visible {visible}",
)

# The verb's inflection together with its neighbors distinguishes disguised verbs from nouns.

FORM_BEFORE: Final = _named(
    "form before acts", "{form}", "{form}, {before} before", "{form}, acts {acts} before"
)
FORM_AFTER: Final = _named("form after", "{form}, {after} after")
FORM_VISIBLE: Final = _named(
    "form visible before after",
    "{form}, visible {visible}",
    "{form}, visible {visible}, behind {before}",
    "{form}, visible {visible}, before {after}",
)
NAMES_BEFORE: Final = _named(
    "form names is_last",
    "{form}, {names} names before",
    "{names} names before",
    "{names} names before, last word {is_last:d}",
)
SUBJECT_ACTS: Final = _named(
    "form acts then_acts visible",
    "{form}, subject acts {acts}",
    "acts {acts}, then acts {then_acts}",
    "{form}, acts {acts}, then acts {then_acts}",
    "visible {visible}, acts {acts}, then acts {then_acts}",
)


def visible(rating: int, is_short: bool, actor_before: bool) -> Features:
    """Return the features of the verb's visibility. `rating` is 0 to 3, or -1 if the verb is
    unrated; `actor_before` says whether a word that can act is before the verb."""
    visible = max(rating, 0) / 3
    return {
        "visible": visible,
        "visible, short caption": is_short * visible,
        "actor before": float(actor_before),
        "visible with actor before": actor_before * visible,
    }


def standing(is_capitalised: bool, to_head: int, is_first: bool, is_last: bool) -> Features:
    """Return the features of the verb's position. `to_head` is positive if its head is to the
    right."""
    return {
        "capitalised": float(is_capitalised),
        "head to the right": float(to_head > 0),
        "head to the left": float(to_head < 0),
        "first word": float(is_first),
        "last word": float(is_last),
    }


def complement(tag: str, roles: Set[str]) -> Features:
    """Return the features of the arcs to the verb's children."""
    has_preposition = not PREPOSITIONS.isdisjoint(roles)
    has_object = not _OBJECTS.isdisjoint(roles)
    both = (
        f"{'with' if has_preposition else 'without'} preposition,"
        f" {'with' if has_object else 'without'} object"
    )
    return {
        "with an object": float(has_object),
        "with a preposition": float(has_preposition),
        **dict.fromkeys([f"{tag} {both}", *(f"has {role}" for role in roles)], 1.0),
    }


def subject(tag: str, page: int | None, before: str) -> Features:
    """Return the features of the verb's subject. There are none if `page` is None."""
    if page is None:
        return {}
    said = {f"said of a {tag}": 1.0, f"subject page word {page}": 1.0}
    return said if before == START else said | {f"before the subject {before}": 1.0}


# Features of a detail: an attribute of an object (its owner), or a relation between two (owner and
# target).

WHAT_WORD: Final = _named("what word", "{what}, {word}")
OWNER: Final = _named(
    "what tag kind acts page",
    "{what} of {kind}",
    "owner is a {tag}",
    "owner acts {acts}",
    "owner page word {page}",
    "{what}, owner acts {acts}",
)
OWNER_WORD: Final = _named("word ending", "owner {word}", "owner ..{ending}")
BETWEEN: Final = _named("before after", "before {before}", "after {after}")
DESCRIPTOR: Final = _named(
    "kind group side", "group {group}", "{kind}, group {group}", "{kind}, {side}"
)
DESCRIBES: Final = _named("word ending", "describes {word}", "describes ..{ending}")
PLACE: Final = _named("kind mark after", "{kind}, behind {mark}", "{kind}, before {after}")
TARGET: Final = _named(
    "kind acts page", "target is a {kind}", "target acts {acts}", "target page word {page}"
)
TARGET_WORD: Final = _named("word", "target {word}")
ENDS: Final = _named(
    "text source target", "{text} {target}", "{text} between {source} and {target}"
)
ENDS_ACT: Final = _named("text source target", "{text} from {source} to {target}")


def what(what: str, tag: str, title_case: bool, is_capitalised: bool) -> Features:
    """Return the features of the detail's kind, such as "relation", and form. `title_case`
    describes the caption."""
    return {
        what: 1.0,
        f"{what}, tag {tag}": 1.0,
        f"{what}, title case {title_case:d}": 1.0,
        "capitalised": float(is_capitalised),
    }
