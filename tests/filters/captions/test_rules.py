"""Decisions are those of a textbook implementation, row by row, and no threshold raised lets more
rows through."""

import dataclasses
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from open_diht.filters.captions.annotate import SCHEMA
from open_diht.filters.captions.graph import ATTRIBUTE_KINDS
from open_diht.filters.captions.rules import CaptionRule, decide_captions

Row = dict[str, Any]
SCORES = st.sampled_from([0.0, 0.25, 0.35, 0.5, 0.7, 0.75, 0.95, 1.0])
THRESHOLDS = st.sampled_from([0.0, 0.2, 0.25, 0.35, 0.5, 0.7, 0.9, 0.95, 1.0])
SOME_KINDS = st.lists(st.sampled_from(ATTRIBUTE_KINDS), unique=True).map(tuple)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A row of annotations; in single precision, .35, .7 and .95 are a little less."""
    count = draw(st.integers(0, 4))
    place = st.integers(0, max(count - 1, 0))
    some = st.integers(0, 4) if count else st.just(0)
    return {
        "parsed": draw(st.text(max_size=5)),
        "objects": [{"text": f"o{i}", "start": i, "end": i + 1,
                     "kind": "noun"} for i in range(count)],
        "attributes": [
            {
                "object": draw(place), "text": draw(st.sampled_from("rst")),
                "kind": draw(st.sampled_from(ATTRIBUTE_KINDS)), "score": draw(SCORES),
            }
            for _ in range(draw(some))
        ],
        "actions": [
            {
                "verb": draw(st.sampled_from(["runs", "Running", "sat", "eats"])),
                "lemma": draw(st.sampled_from(["run", "sit", "eat"])),
                "start": 0,
                "end": 1,
                "tagged": draw(st.booleans()),
                "score": draw(SCORES),
                "participants": [
                    {"object": part, "role": "subject"}
                    for part in (draw(st.lists(place, unique=True)) if count else [])
                ],
            }
            for _ in range(draw(st.integers(0, 4)))
        ],
        "relations": [
            {"source": draw(place), "target": draw(place), "text": "on", "score": draw(SCORES)}
            for _ in range(draw(some))
        ],
    }  # fmt: skip


TABLES = st.lists(rows(), max_size=6)
RULES = st.builds(
    CaptionRule,
    attribute_kinds=SOME_KINDS,
    min_attribute_score=THRESHOLDS,
    count_relations=st.booleans(),
    min_relation_score=THRESHOLDS,
    count_actions=st.booleans(),
    tagged_actions=st.booleans(),
    need_participant=st.booleans(),
    min_action_score=THRESHOLDS,
)


def table_of(content: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(content, schema=SCHEMA)


def decided(table: pa.Table, rule: CaptionRule) -> list[Row]:
    """Decisions as one dictionary per row."""
    decisions = decide_captions(table, rule)
    columns = {
        field.name: getattr(decisions, field.name).tolist()
        for field in dataclasses.fields(decisions)
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def textbook(row: Row, rule: CaptionRule) -> Row:
    """The definition, in a straight line."""
    accepted = [
        action["score"] >= rule.min_action_score
        and (action["tagged"] or not rule.tagged_actions)
        and (bool(action["participants"]) or not rule.need_participant)
        for action in row["actions"]
    ]
    counts = [0] * len(row["objects"])
    attributes = []
    for attribute in row["attributes"]:
        if (
            attribute["kind"] in rule.attribute_kinds
            and attribute["score"] >= rule.min_attribute_score
        ):
            counts[attribute["object"]] += 1
            attributes.append({"object": f"o{attribute['object']}", "attribute": attribute["text"]})
    for relation in row["relations"]:
        if rule.count_relations and relation["score"] >= rule.min_relation_score:
            counts[relation["source"]] += 1
            counts[relation["target"]] += 1
    verbs: dict[str, str] = {}
    done_by: set[tuple[int, str]] = set()
    for action, counts_as_action in zip(row["actions"], accepted, strict=True):
        if counts_as_action:
            verbs.setdefault(action["lemma"], action["verb"])
            done_by |= {(part["object"], action["lemma"]) for part in action["participants"]}
    for place, _ in done_by if rule.count_actions else ():
        counts[place] += 1
    return {
        "parsed": True, "complexity": max(counts, default=0), "actions": list(verbs.values()),
        "accepted": accepted, "n_actions": len(verbs),
        "objects": [thing["text"] for thing in row["objects"]], "attributes": attributes,
    }  # fmt: skip


@given(TABLES, RULES)
def test_decisions_are_those_of_the_textbook(content, rule):
    assert decided(table_of(content), rule) == [textbook(row, rule) for row in content]


@given(TABLES, RULES, st.data())
def test_a_row_is_decided_by_itself(content, rule, data):
    table = table_of(content)
    together = decided(table, rule)
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, len(content)))
    assert decided(table.slice(start, stop - start), rule) == together[start:stop]
    order = data.draw(st.permutations(range(len(content))))
    assert decided(table.take(pa.array(order, pa.int64())), rule) == [
        together[place] for place in order
    ]
    chunked = pa.concat_tables([table.slice(0, start), table.slice(start)])
    assert decided(chunked, rule) == together


STRICTER: dict[str, st.SearchStrategy[Any]] = {
    "min_attribute_score": THRESHOLDS, "min_relation_score": THRESHOLDS,
    "min_action_score": THRESHOLDS, "tagged_actions": st.just(True),
    "need_participant": st.just(True), "count_relations": st.just(False),
    "count_actions": st.just(False), "attribute_kinds": SOME_KINDS,
}  # fmt: skip


@given(TABLES, RULES, st.sampled_from(sorted(STRICTER)), st.data())
def test_a_stricter_rule_counts_no_more(content, rule, name, data):
    value = data.draw(STRICTER[name])
    now = getattr(rule, name)
    if isinstance(value, tuple):
        value = tuple(kind for kind in now if kind in value)
    elif isinstance(value, float):
        value = max(value, now)
    stricter = dataclasses.replace(rule, **{name: value})
    table = table_of(content)
    for before, after in zip(decided(table, rule), decided(table, stricter), strict=True):
        assert (
            after["complexity"] <= before["complexity"]
            and after["n_actions"] <= before["n_actions"]
        )
        assert all(
            was or not now for was, now in zip(before["accepted"], after["accepted"], strict=True)
        )
