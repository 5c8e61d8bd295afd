"""Features for the verifier: named numbers (1 for true) that describe candidates in their captions.

They are computed column by column, for all candidates of many captions at once. Most come in
groups; each is a function in `feature_names.py` with the columns of its arguments. Arguments recur
between candidates, so `verifier.py` caches the weight of a group by its arguments. The features of
the caption itself (`Captions.facts`) apply to all its candidates; they are separate, so that they
are weighed once per caption. Names are readable, so a score can be explained.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import lt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from open_diht.filters.captions import feature_names as say
from open_diht.filters.captions.feature_names import END, PREPOSITIONS, START, Features, Make
from open_diht.filters.captions.graph import (
    ATTRIBUTE_KINDS,
    NAME_TAGS,
    NOUN_TAGS,
    VERB_TAGS,
    CaptionGraph,
    Object,
    subject_of,
)
from open_diht.filters.captions.lexicon import VerbRating, first_names, verb_rating
from open_diht.filters.captions.normalize import is_title_case
from open_diht.filters.captions.words import ACTOR, PERSON, UNKNOWN, UNRATED, known_word

T = TypeVar("T")
Column = Sequence[Any]
Places = Sequence[int]
Group = tuple[Make, *tuple[Column, ...]]
"""A function and the columns of its arguments, which determine the features that it returns."""

_YEAR = re.compile(r"\b(?:1[89]|20)\d\d\b")
_DIGIT = re.compile(r"\d")
_FILE = re.compile(r"_|\.(?:jpe?g|png|gif)\b|^\S+$", re.I)
_MARKS = "|-:,.#–—&/"
_SEPARATORS = frozenset("|-:–—/")
_ADDRESS = frozenset({"you", "your", "we", "our", "i", "my", "us"})
_FINITE = frozenset({"VBZ", "VBP", "VBD"})
_DESCRIBES_A_NOUN = frozenset({"JJ", "JJR", "JJS", "CD", "VBN", "DT", "PRP$", "POS", "RB"})
_ATTRIBUTE: dict[str, str] = {kind: f"attribute {kind}" for kind in ATTRIBUTE_KINDS}
_FACTS = (
    "caption: short",
    "caption: stock site",
    "caption: ends with a stop",
    "caption: has a clause",
    "caption: addresses the reader",
    "caption: asks",
    "caption: exclaims",
    "caption: begins with the",
    "caption: by a name",
    "caption: year",
    "caption: file name",
    "caption: other letters",
    "caption: length",
    "caption: share of digits",
    "caption: verbs",
    "caption: page words",
    "caption: share of names",
)
_PLACE = "place in the caption"
_UNRATED_VERB = VerbRating(UNRATED, UNRATED, UNRATED)
# empty places on both sides of each caption, so that neighbors can be read without checking bounds
_MARGIN = 2
_NOWHERE = 0  # a place in the margin of the first caption: no word
_NAMES = 3  # most names counted directly before a verb
_NEAR = 4  # words before a verb to search for a noun if the verb has no syntactic subject


@dataclass(frozen=True)
class Columns:
    """Features of some candidates, or of captions, column by column."""

    captions: Sequence[int]
    """Index of each candidate's caption."""
    groups: Sequence[Group]
    values: Mapping[str, NDArray[np.float64]]
    """Features outside the groups: name -> the number of each candidate."""

    def features(self, place: int) -> Features:
        """Return the features of one candidate by name. Those that are false or zero are left
        out."""
        found = [make(*[column[place] for column in columns]) for make, *columns in self.groups]
        found.append({name: float(column[place]) for name, column in self.values.items()})
        return {name: value for features in found for name, value in features.items() if value}


class Captions:
    """Some captions with candidates, token by token, one caption after the other. The original
    captions are kept too, because separators and stock-site words are evidence."""

    def __init__(self, graphs: Sequence[CaptionGraph], originals: Sequence[str]):
        self._graphs = graphs
        self._originals = originals
        lower = [[word.lower for word in graph.words] for graph in graphs]
        self._has_name = [not first_names().isdisjoint(words) for words in lower]
        nouns = [_rated_nouns(*one) for one in zip(graphs, lower, self._has_name, strict=True)]
        self._tags = _in_a_row([graph.parse.tags for graph in graphs], START, END)
        self._deps = _in_a_row([graph.parse.deps for graph in graphs], "", "")
        self._words = _in_a_row([graph.parse.words for graph in graphs], "", "")
        self._lower = _in_a_row(lower, None, None)
        self._nouns = _in_a_row(nouns, (None, None), (None, None))
        lengths = np.array([len(words) for words in lower], np.int64)
        stops = np.cumsum(lengths + 2 * _MARGIN) - _MARGIN
        self._starts: list[int] = (stops - lengths).tolist()
        self._stops: list[int] = stops.tolist()
        self._title_case = [is_title_case(original) for original in originals]

    @cached_property
    def facts(self) -> Columns:
        """Return the features of the captions themselves."""
        facts: dict[str, Column] = {
            "caption: title case": self._title_case,
            "caption: first name": self._has_name,
        }
        for mark in _MARKS:
            facts[f"caption: has {mark}"] = [mark in original for original in self._originals]
        rows = [self._facts(place) for place in range(len(self._graphs))]
        facts.update(zip(_FACTS, _unzipped(rows, len(_FACTS)), strict=True))
        return Columns(
            range(len(rows)),
            (),
            {name: np.array(column, np.float64) for name, column in facts.items()},
        )

    def _facts(self, caption: int) -> tuple[float, ...]:
        """Return the values for one caption, in the order of `_FACTS`."""
        start = self._starts[caption]
        stop = self._stops[caption]
        original = self._originals[caption]
        tags = self._tags[start:stop]
        words = self._lower[start:stop]
        count = stop - start
        lower = original.lower()
        digits = len(_DIGIT.findall(original))
        return (
            count < 6,
            "stock" in lower or "royalty" in lower or "footage" in lower,
            original.rstrip().endswith("."),
            "nsubj" in self._deps[start:stop] and _has_clause(self._graphs[caption]),
            not _ADDRESS.isdisjoint(words),
            "?" in original or "how" in words,
            "!" in original,
            words[:1] == ["the"],
            "by" in words
            and any(
                w == "by" and self._tags[at + 1] in NAME_TAGS for at, w in enumerate(words, start)
            ),
            digits >= 4 and _YEAR.search(original) is not None,
            _may_be_a_file(original) and _FILE.search(original) is not None,
            not original.isascii(),
            min(count, 40) / 40,
            digits / max(len(original), 1),
            sum(map(VERB_TAGS.__contains__, tags)) / 5,
            [page for _, page in self._nouns[start:stop]].count(2) / 3,
            sum(map(NAME_TAGS.__contains__, tags)) / max(count, 1),
        )

    @cached_property
    def actions(self) -> Columns:
        """Return the features of the verb candidates, caption by caption in the order of the
        graph."""
        captions, actions = _of_all([graph.actions for graph in self._graphs])
        at = self._places(captions, [action.token for action in actions])
        lemma = [action.lemma for action in actions]
        word = _at(self._lower, at)
        form = [_inflection(*one) for one in zip(word, lemma, strict=True)]
        what = [
            f"{'verb' if a.tagged else 'disguised'} form {one}"
            for a, one in zip(actions, form, strict=True)
        ]
        visible, shop, other_word = _unzipped(
            [verb_rating(one) or _UNRATED_VERB for one in lemma], 3
        )
        tag, before, after = (_at(self._tags, at, by) for by in (0, -1, 1))
        is_first = [one == START for one in before]
        is_last = [one == END for one in after]
        is_short = [self._stops[caption] - self._starts[caption] < 5 for caption in captions]
        syntax = [self._syntax(*one) for one in zip(captions, at, strict=True)]
        to_head, head, roles, preposition, then, subject, tie = _unzipped(syntax, 7)
        then_acts, then_page = _unzipped(_at(self._nouns, then), 2)
        acts, page = _unzipped(_at(self._nouns, subject), 2)
        landmarks = {caption: self._landmarks(caption) for caption in dict.fromkeys(captions)}
        actor, name, separator, last_separator = _unzipped(
            [landmarks[caption] for caption in captions], 4
        )
        groups: list[Group] = [
            (say.VERB, visible, shop, other_word, tag),
            (say.WORD, word, _endings(word), lemma, form),
            (say.BEFORE, before, _at(self._tags, at, -2)),
            (say.AFTER, after, _at(self._tags, at, 2)),
            (say.WORD_BEFORE, _at(self._lower, at, -1)),
            (say.WORD_AFTER, _at(self._lower, at, 1)),
            (say.ROLE, _at(self._deps, at), head),
            (say.TAG, tag, _at(self._title_case, captions)),
            (say.FORM_BETWEEN, before, form, after),
            (say.FORM_BEFORE, what, before, [acts for acts, _ in _at(self._nouns, at, -1)]),
            (say.FORM_AFTER, what, after),
            (say.visible, visible, is_short, _are_less(actor, at)),
            (say.standing, self._are_capitalised(at), to_head, is_first, is_last),
            (
                say.THEN,
                then_acts,
                then_page,
                form,
                ["first" if one else "later" for one in is_first],
            ),
            (say.THEN_WORD, _at(self._lower, then)),
            (say.complement, tag, roles),
            (say.PREPOSITION, preposition),
            (say.SAID_OF, [one or "nobody" for one in _at(self._lower, subject)]),
            (say.subject, _at(self._tags, subject), page, _at(self._tags, subject, -1)),
            (say.TIE, tie, tag),
            (say.ACTS, tie, acts, visible),
            (say.FORM_VISIBLE, form, visible, before, after),
            (say.NAMES_BEFORE, form, [self._names_before(place) for place in at], is_last),
            (say.SUBJECT_ACTS, form, acts, then_acts, visible),
        ]
        values = {
            "first name before": np.array(_are_less(name, at), np.float64),
            "separator before": np.array(_are_less(separator, at), np.float64),
            "separator after": np.array(_are_less(at, last_separator), np.float64),
        }
        return Columns(captions, groups, values | self._standing(captions, at))

    def _syntax(
        self, caption: int, at: int
    ) -> tuple[int, str, frozenset[str], str | None, int, int, str | None]:
        """Return a verb's syntax: the side of its head (-1 left, 1 right, 0 none), the head's tag,
        the labels of the arcs to its children, its first preposition, the place of the noun after
        it, and the place of its subject with the tie to it."""
        graph = self._graphs[caption]
        start = self._starts[caption]
        token = at - start
        deps = graph.parse.deps
        head = graph.parse.heads[token]
        children = graph.children.get(token, ())
        preposition = next((child for child in children if deps[child] in PREPOSITIONS), None)
        found = subject_of(graph.parse, graph.children, token)
        return (
            (head > token) - (head < token),
            "none" if head == token else graph.parse.tags[head],
            frozenset([deps[child] for child in children]),
            None if preposition is None else self._lower[start + preposition],
            self._noun_behind(at),
            *((start + found[0], found[1]) if found else self._noun_near(start, at)),
        )

    def _noun_behind(self, at: int) -> int:
        """Return the place of the last of the nouns that follow a word, also after words that
        describe the noun: "walking boots" or "feeding the two ducks". Return `_NOWHERE` if no noun
        follows."""
        place = at + 1
        last = _NOWHERE
        while self._tags[place] in _DESCRIBES_A_NOUN:
            place += 1
        while self._tags[place] in NOUN_TAGS:
            last, place = place, place + 1
        return last

    def _names_before(self, at: int) -> int:
        """Return how many words directly before a word are names, at most three."""
        place = at - 1
        while self._tags[place] in NAME_TAGS and at - place <= _NAMES:
            place -= 1
        return at - 1 - place

    def _noun_near(self, start: int, at: int) -> tuple[int, str | None]:
        """Return the place of a noun or pronoun before a verb without a syntactic subject, and the
        tie "near". Return `_NOWHERE` and None if no such word is near."""
        for place in range(at - 1, max(start, at - _NEAR) - 1, -1):
            if self._tags[place][:2] in ("NN", "PR"):
                return place, "near"
        return _NOWHERE, None

    def _landmarks(self, caption: int) -> tuple[int, int, int, int]:
        """Return four places in a caption: the first word that can act, the first name of a person,
        the first separator and the last. A missing first one is placed after the caption, a missing
        last one before it.
        """
        start = self._starts[caption]
        stop = self._stops[caption]
        places = range(start, stop)
        lower = self._lower[start:stop]
        names = filter(self._is_name, places if self._has_name[caption] else ())
        separators = [stop, -1]
        if not _SEPARATORS.isdisjoint(lower):
            separators = [place for place in places if self._lower[place] in _SEPARATORS]
        actor = next((place for place in places if self._nouns[place][0] == ACTOR), stop)
        return actor, next(names, stop), separators[0], separators[-1]

    def _is_name(self, at: int) -> bool:
        return self._lower[at] in first_names() and self._words[at][0].isupper()

    @cached_property
    def attributes(self) -> Columns:
        """Return the features of the attributes, caption by caption in the order of the graph."""
        captions, attributes = _of_all([graph.attributes for graph in self._graphs])
        at = self._places(captions, [one.token for one in attributes])
        owners = self._objects(captions, [one.object for one in attributes])
        owners_at = self._places(captions, [owner.token for owner in owners])
        kind = [one.kind for one in attributes]
        word = _at(self._lower, at)
        groups: list[Group] = [
            *self._ties(captions, at, owners, owners_at, [_ATTRIBUTE[one] for one in kind], word),
            (
                say.DESCRIPTOR,
                kind,
                [known_word(one).group or "other" for one in word],
                list(map(_side, at, owners_at)),
            ),
            (say.DESCRIBES, word, _endings(word)),
            (say.PLACE, kind, list(map(_mark, _at(self._lower, at, -1))), _at(self._tags, at, 1)),
        ]
        return Columns(captions, groups, self._standing(captions, at))

    @cached_property
    def relations(self) -> Columns:
        """Return the features of the relations, caption by caption in the order of the graph."""
        captions, relations = _of_all([graph.relations for graph in self._graphs])
        at = self._places(captions, [one.token for one in relations])
        text = [one.text for one in relations]
        sources, targets = (
            self._objects(captions, ends)
            for ends in ([one.source for one in relations], [one.target for one in relations])
        )
        sources_at, targets_at = (
            self._places(captions, [one.token for one in ends]) for ends in (sources, targets)
        )
        acts, page = _unzipped(_at(self._nouns, targets_at), 2)
        source_acts = [acts for acts, _ in _at(self._nouns, sources_at)]
        source_kind = [one.kind for one in sources]
        target_kind = [one.kind for one in targets]
        groups: list[Group] = [
            *self._ties(captions, at, sources, sources_at, ["relation"] * len(at), text),
            (say.TARGET, target_kind, acts, page),
            (say.TARGET_WORD, _at(self._lower, targets_at)),
            (say.ENDS, text, source_kind, target_kind),
            (say.ENDS_ACT, text, source_acts, acts),
        ]
        return Columns(captions, groups, self._standing(captions, at))

    def _ties(
        self,
        captions: Places,
        at: Places,
        owners: Sequence[Object],
        owners_at: Places,
        what: Sequence[str],
        word: Sequence[str],
    ) -> list[Group]:
        """Return the feature groups that attributes and relations have in common."""
        tag, before, after = (_at(self._tags, at, by) for by in (0, -1, 1))
        acts, page = _unzipped(_at(self._nouns, owners_at), 2)
        owners_word = _at(self._lower, owners_at)
        return [
            (say.what, what, tag, _at(self._title_case, captions), self._are_capitalised(at)),
            (say.WHAT_WORD, what, word),
            (
                say.OWNER,
                what,
                _at(self._tags, owners_at),
                [owner.kind for owner in owners],
                acts,
                page,
            ),
            (say.OWNER_WORD, owners_word, _endings(owners_word)),
            (say.BETWEEN, before, after),
        ]

    def _places(self, captions: Places, tokens: Places) -> list[int]:
        """Return the places of tokens of captions in the row of all tokens."""
        return [
            self._starts[caption] + token for caption, token in zip(captions, tokens, strict=True)
        ]

    def _objects(self, captions: Places, objects: Places) -> list[Object]:
        return [
            self._graphs[caption].objects[one]
            for caption, one in zip(captions, objects, strict=True)
        ]

    def _are_capitalised(self, at: Places) -> list[bool]:
        return [self._words[place][0].isupper() for place in at]

    def _standing(self, captions: Places, at: Places) -> dict[str, NDArray[np.float64]]:
        """Return the position of each word in its caption, as a fraction of the caption's
        length."""
        start, stop = (
            np.array(bounds, np.float64)[np.array(captions, np.int64)]
            for bounds in (self._starts, self._stops)
        )
        return {_PLACE: (np.array(at, np.float64) - start) / (stop - start)}


def _of_all(parts: Sequence[Sequence[T]]) -> tuple[list[int], list[T]]:
    """Return the parts of all captions, one after the other, with the index of each part's
    caption."""
    return [caption for caption, some in enumerate(parts) for _ in some], [
        one for some in parts for one in some
    ]


def _in_a_row(rows: Sequence[Sequence[Any]], before: Any, behind: Any) -> list[Any]:
    """Return the values of the tokens of all captions in a row, with margins around each
    caption."""
    found: list[Any] = [before] * _MARGIN
    between = (behind,) * _MARGIN + (before,) * _MARGIN
    for row in rows:
        found += row
        found += between
    return found


def _at(column: Column, places: Places, by: int = 0) -> list[Any]:
    """Return the values of a column at some places, or `by` places later."""
    return [column[place + by] for place in places]


def _unzipped(rows: Sequence[Sequence[Any]], width: int) -> list[Column]:
    """Return the columns of rows; there may be no rows."""
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _endings(words: Column) -> list[str]:
    """Return the last three characters of each word."""
    return [word[-3:] for word in words]


def _are_less(some: Places, others: Places) -> list[bool]:
    return list(map(lt, some, others))


def _rated_nouns(
    graph: CaptionGraph, lower: Sequence[str], has_name: bool
) -> list[tuple[int, int]]:
    """Return (can act, is a page word) for each word, -1 if unknown. Names of persons can act."""
    tags = graph.parse.tags
    found = [word.noun for word in graph.words]
    if has_name:
        names = first_names()
        # Mark persons by their first names.
        for token in [token for token, word in enumerate(lower) if word in names]:
            for place in range(token, min(token + 2, len(tags))):  # a surname follows a first name
                if found[place] == UNKNOWN and tags[place] in NAME_TAGS:
                    found[place] = PERSON
    return found


def _has_clause(graph: CaptionGraph) -> bool:
    tags = graph.parse.tags
    arcs = zip(graph.parse.deps, graph.parse.heads, strict=True)
    return any(dep == "nsubj" and tags[head] in _FINITE for dep, head in arcs)


def _may_be_a_file(text: str) -> bool:
    """Return whether `_FILE` may match; this check is cheaper than the expression."""
    return "_" in text or "." in text or " " not in text


def _inflection(word: str, lemma: str) -> str:
    if word == lemma:
        return "base"
    return next((ending for ending in ("ing", "ed", "s") if word.endswith(ending)), "irregular")


def _side(token: int, owner: int) -> str:
    if token == owner:
        return "is the head"
    if token < owner:
        return "just before" if owner - token == 1 else "before"
    return "just behind" if token - owner == 1 else "behind"


def _mark(before: str | None) -> str:
    """Return the mark before, or "a word" if a word is before, or "nothing" at the start."""
    if before is None:
        return "nothing"
    return "a word" if before[0].isalnum() else before
