"""Decide Complexity and Action from annotations: pure functions of columns and thresholds.

The complexity of an object is the number of its attributes, its relations, and the distinct actions
it takes part in, counting only what the rule admits. The complexity of a caption is the maximum
over its objects. The actions of a caption are its distinct action lemmas. This is our reading of
DiHT, whose parser and rules are not published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.fields import Count, Positive, Share, check_fields
from open_diht.filters.captions.graph import TIED_KINDS, AttributeKind

SCORE_DECIMALS = 4
"""Decimals of the scores of candidates."""

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CaptionRule:
    """Rules for what counts, and how much of it a caption needs. Scores are the verifier's, or
    those after the second opinion; a minimum of 0 admits every score."""

    min_complexity: Count = 1
    """Captions with a lower complexity are rejected (`complexity`)."""
    min_actions: Count = 1
    """Captions with fewer distinct actions are rejected (`action`)."""
    max_chars: Positive = 4_096
    """Longer captions are rejected (`caption_length`): they mostly come from shifted columns and
    page text."""
    attribute_kinds: tuple[AttributeKind, ...] = TIED_KINDS
    """Kinds of attributes that count for complexity; `titled` and `listed` are words that the parse
    ties to no object."""
    min_attribute_score: Share = 0.0
    """Attributes with a lower score do not count."""
    count_relations: bool = True
    """True: prepositional and possessive relations count for complexity."""
    min_relation_score: Share = 0.0
    """Relations with a lower score do not count."""
    count_actions: bool = True
    """True: actions count for the complexity of their participants."""
    tagged_actions: bool = True
    """Only words that the tagger calls verbs can be actions; False also admits verb forms tagged as
    nouns or adjectives."""
    need_participant: bool = False
    """True: an action counts only if an object takes part in it."""
    min_action_score: Share = 0.0
    """Action candidates with a lower score do not count."""
    second_opinion: bool = False
    """True: a small transformer is asked about captions whose scores are uncertain; the log odds of
    their scores are then the average of the transformer's and the verifier's."""

    def __post_init__(self) -> None:
        check_fields(self)

    def counts(self, kind: str, score: float) -> bool:
        """Return whether an attribute with a score, 0 to 1, counts for complexity."""
        return (
            kind in self.attribute_kinds
            and round(score, SCORE_DECIMALS) >= self.min_attribute_score
        )


@dataclass(frozen=True)
class CaptionDecisions:
    """The result of a rule for a table of annotations, one entry per row."""

    parsed: Bools
    """False for captions without annotations: they were tagged but not parsed, or a condition on a
    column rejects their row."""
    complexity: Ints
    """Complexity; 0 if the caption was not parsed."""
    actions: pa.ListArray
    """list<string>: the accepted verbs as in the parsed text, each lemma once."""
    accepted: pa.ListArray
    """list<bool>: whether each action candidate was accepted."""
    n_actions: Ints
    objects: pa.ListArray
    """list<string>: the objects' texts."""
    attributes: pa.ListArray
    """list<struct<object: string, attribute: string>>: the attributes that count."""


@dataclass(frozen=True)
class _Elements:
    """The flattened elements of a list column, with the row of each."""

    values: pa.StructArray
    rows: Ints
    offsets: Ints

    @staticmethod
    def of(column: pa.ChunkedArray | pa.Array) -> _Elements:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(array), 0)).astype(np.int64)
        return _Elements(
            array.flatten(),
            np.repeat(np.arange(len(lengths)), lengths),
            np.concatenate([[0], np.cumsum(lengths)]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def numbers(self, name: str) -> NDArray[np.float64]:
        numbers = np.asarray(self.values.field(name), dtype=np.float64)
        # Scores of 4 decimals are stored as float32, where .7 is a little less than a preset's .7.
        return np.round(numbers, SCORE_DECIMALS) if name == "score" else numbers


def decide_captions(annotations: pa.Table, rule: CaptionRule) -> CaptionDecisions:
    """Decide the complexity and the actions of each caption.

    Args:
        annotations: one row per caption, as `CaptionAnnotator.annotate` gives them.
        rule: what counts; the `captions` of a preset.

    Returns:
        Arrays with one entry per caption: complexity, number of actions, and the lists they count.

    Examples:
        >>> from open_diht import load_preset
        >>> from open_diht.filters.captions.annotate import CaptionAnnotator
        >>> from open_diht.filters.captions.rules import decide_captions
        >>> captions = ["a brown dog catches a red ball", "IMG_2034.jpg"]
        >>> annotations = CaptionAnnotator().annotate(captions)
        >>> decisions = decide_captions(annotations, load_preset("strict").captions)
        >>> decisions.complexity.tolist(), decisions.actions.to_pylist()
        ([2, 0], [['catches'], []])
    """
    n = annotations.num_rows
    objects = _Elements.of(annotations["objects"])
    actions = _Elements.of(annotations["actions"])
    accepted = _accepted_actions(actions, rule)
    first_of_lemma = _first_of_each(actions, accepted)
    counts = np.zeros(len(objects), np.int64)
    if rule.count_actions and len(actions):
        participants = _Elements.of(actions.values.field("participants"))
        # Offset of the row plus index in the row's list: the place among all objects.
        places = objects.offsets[actions.rows[participants.rows]] + participants.numbers(
            "object"
        ).astype(np.int64)
        lemmas = np.asarray(actions.values.field("lemma").dictionary_encode().indices)[
            participants.rows
        ]
        parts = np.stack([places, lemmas], axis=1)[accepted[participants.rows]]
        np.add.at(counts, np.unique(parts, axis=0)[:, 0], 1)  # an object counts each lemma once
    attributes = _Elements.of(annotations["attributes"])
    counted = np.zeros(0, bool)
    places = np.zeros(0, np.int64)
    if len(attributes):
        kinds = np.asarray(
            pc.is_in(
                attributes.values.field("kind"),
                value_set=pa.array(rule.attribute_kinds, pa.string()),
            )
        )
        counted = kinds & (attributes.numbers("score") >= rule.min_attribute_score)
        places = objects.offsets[attributes.rows] + attributes.numbers("object").astype(np.int64)
        np.add.at(counts, places[counted], 1)
    texts = objects.values.field("text")
    pairs = pa.StructArray.from_arrays(
        [
            texts.take(pa.array(places[counted])),
            attributes.values.field("text").filter(pa.array(counted)),
        ],
        ["object", "attribute"],
    )
    described = _lists(n, attributes.rows[counted], pairs)
    relations = _Elements.of(annotations["relations"])
    if rule.count_relations and len(relations):
        counted = relations.numbers("score") >= rule.min_relation_score
        for end in ("source", "target"):
            places = objects.offsets[relations.rows] + relations.numbers(end).astype(np.int64)
            np.add.at(counts, places[counted], 1)
    complexity = np.zeros(n, np.int64)
    np.maximum.at(complexity, objects.rows, counts)
    n_actions = np.zeros(n, np.int64)
    np.add.at(n_actions, actions.rows[first_of_lemma], 1)
    return CaptionDecisions(
        parsed=np.asarray(pc.is_valid(annotations["objects"])),
        complexity=complexity,
        actions=_lists(
            n,
            actions.rows[first_of_lemma],
            actions.values.field("verb").filter(pa.array(first_of_lemma)),
        ),
        accepted=_lists(n, actions.rows, pa.array(accepted)),
        n_actions=n_actions,
        objects=_lists(n, objects.rows, texts),
        attributes=described,
    )


def _accepted_actions(actions: _Elements, rule: CaptionRule) -> Bools:
    if not len(actions):
        return np.zeros(0, bool)
    accepted: Bools = actions.numbers("score") >= rule.min_action_score
    if rule.tagged_actions:
        accepted &= np.asarray(actions.values.field("tagged").cast(pa.int8())).astype(bool)
    if rule.need_participant:
        accepted &= np.asarray(pc.list_value_length(actions.values.field("participants"))) > 0
    return accepted


def _first_of_each(actions: _Elements, accepted: Bools) -> Bools:
    """Return the mask of the accepted actions that are the first of their lemma in their row."""
    first = np.zeros(len(actions), bool)
    seen: set[tuple[int, str]] = set()
    lemmas = actions.values.field("lemma").to_pylist() if accepted.any() else []
    for place in np.flatnonzero(accepted):
        key = (int(actions.rows[place]), lemmas[place])
        if key not in seen:
            seen.add(key)
            first[place] = True
    return first


def _lists(n: int, rows: Ints, values: pa.Array) -> pa.ListArray:
    """Return values as a list array of `n` rows; `rows` is the sorted row of each value."""
    offsets = np.zeros(n + 1, np.int32)
    np.add.at(offsets, rows + 1, 1)  # counts repeated rows, unlike offsets[rows + 1] += 1
    return pa.ListArray.from_arrays(pa.array(np.cumsum(offsets), pa.int32()), values)
