"""Captions to annotations: the Arrow columns from which every preset decides.

Annotating is the expensive pass (normalise, parse, graph, verify); it knows no threshold. `rules.py` decides on its
columns.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from filters.captions.graph import CaptionGraph, build_graph, is_action_candidate
from filters.captions.normalise import normalise
from filters.captions.parse import MODELS, CaptionParser, Parse, model_provenance
from filters.captions.verifier import Scores, load_verifier, weights_fingerprint

VERSION = 4  # raise it when equal captions may get other annotations: runs then annotate anew

_PARTICIPANT = pa.struct([("object", pa.int32()), ("role", pa.string())])
SCHEMA = pa.schema(
    [
        ("parsed", pa.string()),
        (
            "objects",
            pa.list_(
                pa.struct([("text", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())])
            ),
        ),
        (
            "attributes",
            pa.list_(
                pa.struct(
                    [("object", pa.int32()), ("text", pa.string()), ("kind", pa.string()), ("score", pa.float32())]
                )
            ),
        ),
        (
            "actions",
            pa.list_(
                pa.struct(
                    [
                        ("verb", pa.string()),
                        ("lemma", pa.string()),
                        ("start", pa.int32()),
                        ("end", pa.int32()),
                        ("tagged", pa.bool_()),
                        ("score", pa.float32()),
                        ("participants", pa.list_(_PARTICIPANT)),
                    ]
                )
            ),
        ),
        (
            "relations",
            pa.list_(
                pa.struct(
                    [("source", pa.int32()), ("target", pa.int32()), ("text", pa.string()), ("score", pa.float32())]
                )
            ),
        ),
    ]
)
"""Annotation columns: the parsed text; objects with character spans in it; attributes, actions, relations with verifier
scores, 0 to 1."""


def provenance(models: Sequence[str] = MODELS, lean: bool = False) -> dict[str, str]:
    """What decides the annotations: model, library, weights and code versions. Loads no model."""
    known = {**model_provenance(models), "verifier": weights_fingerprint(), "annotations": str(VERSION)}
    return {**known, "lean": "only captions with a verb candidate are parsed"} if lean else known


class CaptionAnnotator:
    """Captions to annotation rows. One per process.

    Args:
        models: names of spaCy models, the first that is installed is taken.
        lean: captions without a word that may be a verb are tagged and not parsed, for a rule that asks for an action
            rejects them whatever else they say. Of their row all but `parsed` is null.
    """

    def __init__(self, models: Sequence[str] = MODELS, lean: bool = False):
        self._parser = CaptionParser(models)
        self._verifier = load_verifier()
        self._lean = lean

    @property
    def slow(self) -> str | None:
        """Why spaCy parses itself, about three times slower; None where it need not."""
        return self._parser.slow

    def annotate(self, captions: Sequence[str]) -> pa.Table:
        """One row per caption, in order, of `SCHEMA`. Equal captions are annotated once."""
        with _uncollected():
            return self._annotate(captions)

    def _annotate(self, captions: Sequence[str]) -> pa.Table:
        distinct = list(dict.fromkeys(captions))
        texts = [normalise(caption) for caption in distinct]
        parses = self._parser.parse_where(may_state_an_action, texts) if self._lean else self._parser.parse(texts)
        rows: dict[str, dict[str, Any]] = {}
        for caption, text, parse in zip(distinct, texts, parses, strict=True):
            if parse is None:
                rows[caption] = {"parsed": text}
                continue
            graph = build_graph(parse)
            rows[caption] = row_of(graph, self._verifier.score(graph, caption))
        return pa.Table.from_pylist([rows[caption] for caption in captions], schema=SCHEMA)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cycles: millions of small tuples and lists come and go here, none of them in a cycle, and
    looking through them takes a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def may_state_an_action(tagged: Parse) -> bool:
    """Whether a caption that is tagged and not parsed has a word that may be an action candidate once it is: labels of
    arcs only rule candidates out."""
    return any(is_action_candidate(tagged, token) for token in range(len(tagged.words)))


def row_of(graph: CaptionGraph, scores: Scores) -> dict[str, Any]:
    """A graph and its scores as a row of `SCHEMA`."""
    return {
        "parsed": graph.parse.text,
        "objects": [{"text": o.text, "start": o.start, "end": o.end, "kind": o.kind} for o in graph.objects],
        "attributes": [
            {"object": a.object, "text": a.text, "kind": a.kind, "score": round(score, 4)}
            for a, score in zip(graph.attributes, scores.attributes, strict=True)
        ],
        "actions": [
            {
                "verb": a.verb,
                "lemma": a.lemma,
                "start": a.start,
                "end": a.end,
                "tagged": a.tagged,
                "score": round(score, 4),
                "participants": [{"object": p.object, "role": p.role} for p in a.participants],
            }
            for a, score in zip(graph.actions, scores.actions, strict=True)
        ],
        "relations": [
            {"source": r.source, "target": r.target, "text": r.text, "score": round(score, 4)}
            for r, score in zip(graph.relations, scores.relations, strict=True)
        ],
    }
