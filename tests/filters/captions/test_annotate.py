"""Captions to rows: in order, of one schema, equal captions alike, spans in the parsed text."""

import gc
from typing import Any

import numpy as np
import pytest

from open_diht.filters.captions import annotate
from open_diht.filters.captions.annotate import (
    SCHEMA,
    CaptionAnnotator,
    Moves,
    provenance,
    table_of,
)
from open_diht.filters.captions.normalize import normalize
from open_diht.filters.captions.opinion import Revised
from open_diht.filters.captions.verifier import load_verifier

CAPTIONS = [
    "A black cat is chasing a small brown bird",
    "",
    "Stock Photo: a dog running",
    "the girl&#39;s red dress",
]


@pytest.fixture(scope="module")
def annotator() -> CaptionAnnotator:
    return CaptionAnnotator()


def test_one_row_per_caption_in_order_alike_for_equal_ones(annotator):
    table = annotator.annotate(CAPTIONS)
    assert table.schema == SCHEMA and table["parsed"].to_pylist() == [
        normalize(caption) for caption in CAPTIONS
    ]
    assert annotator.annotate(CAPTIONS[::-1]).to_pylist() == table.to_pylist()[::-1]
    assert annotator.annotate([]).schema == SCHEMA and annotator.annotate([]).num_rows == 0
    first, _, third = annotator.annotate(["a dog runs", "a cat", "a dog runs"]).to_pylist()
    assert first == third


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_left_as_it_was(annotator, was_on):
    (gc.enable if was_on else gc.disable)()
    try:
        annotator.annotate(CAPTIONS)
        assert gc.isenabled() == was_on
    finally:
        gc.enable()


def test_an_interrupt_leaves_the_collector_on(annotator, monkeypatch):
    disable = gc.disable

    def disable_and_interrupt() -> None:
        disable()
        raise KeyboardInterrupt

    monkeypatch.setattr(gc, "disable", disable_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        annotator.annotate(CAPTIONS)
    assert gc.isenabled()


def test_the_original_caption_is_evidence(annotator):
    # Both are parsed as the same text; the scores differ because one of them comes from a stock
    # site.
    plain, stock = annotator.annotate(
        ["a dog running on grass", "a dog running on grass - Stock Photo"]
    ).to_pylist()
    assert (
        plain["parsed"] == stock["parsed"]
        and plain["actions"][0]["score"] != stock["actions"][0]["score"]
    )


def test_spans_cut_the_parsed_text(annotator, odd_texts):
    for row in annotator.annotate([*CAPTIONS, *odd_texts]).to_pylist():
        for thing in row["objects"]:
            assert row["parsed"][thing["start"] : thing["end"]] == thing["text"]
        for action in row["actions"]:
            assert row["parsed"][action["start"] : action["end"]] == action["verb"]
        for score in [
            part["score"] for name in ("attributes", "actions", "relations") for part in row[name]
        ]:
            assert 0 <= score <= 1


def test_a_row_holds_the_graph(annotator, graph_of):
    caption = CAPTIONS[0]
    graph = graph_of(caption)
    (row,) = table_of([caption], [caption], [graph], load_verifier()).to_pylist()
    assert [thing["text"] for thing in row["objects"]] == ["cat", "bird"]
    assert [(a["object"], a["text"]) for a in row["attributes"]] == [
        (0, "black"),
        (1, "small"),
        (1, "brown"),
    ]
    assert row["actions"][0]["participants"] == [
        {"object": 0, "role": "subject"},
        {"object": 1, "role": "object"},
    ]
    (annotated,) = annotator.annotate([caption]).to_pylist()
    assert annotated == row


def test_provenance_names_everything_that_decides():
    assert provenance().keys() == {"spacy", "model", "model_version", "verifier", "annotations"}
    assert all(provenance().values())
    assert provenance(lean=True).items() > provenance().items()


@pytest.fixture(scope="module")
def lean_annotator() -> CaptionAnnotator:
    return CaptionAnnotator(lean=True)


def test_lean_rows_are_those_of_a_full_annotation_or_state_no_action(
    annotator, lean_annotator, odd_texts, laion
):
    captions = [*CAPTIONS, *odd_texts, *laion[:500]]
    full, lean = (made.annotate(captions).to_pylist() for made in (annotator, lean_annotator))
    nothing = {"objects": None, "attributes": None, "actions": None, "relations": None}
    unparsed = 0
    for row, other in zip(full, lean, strict=True):
        if other["objects"] is None:
            unparsed += 1
            assert other == {"parsed": row["parsed"], **nothing}
            assert row["actions"] == []
        else:
            assert other == row
    assert unparsed > 150


def test_lean_rows_are_the_same_where_spacy_parses_itself(lean_annotator, monkeypatch, odd_texts):
    captions = [*CAPTIONS, *odd_texts]
    expected = lean_annotator.annotate(captions)
    monkeypatch.setattr(lean_annotator._parser, "_numpy", None)
    assert lean_annotator.annotate(captions) == expected


def test_scores_that_a_second_opinion_leaves_alone_are_neither_raised_nor_lowered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = np.array([0.25, 0.0, -0.5, 0.125])
    monkeypatch.setattr(annotate, "revise", lambda scores, *_: Revised(scores, 3, changes))
    moves = Moves()
    second: Any = object()
    table_of([], [], [], load_verifier(), second, moves)
    assert moves == Moves(asked=3, raised=2, lowered=1, total=0.875)
