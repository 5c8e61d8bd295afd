"""Annotate captions: make the Arrow columns from which presets decide.

Annotating is the expensive pass (normalize, parse, graph, verify) and uses no preset's thresholds.
`rules.py` decides on its columns.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from open_diht.filters.captions.graph import CaptionGraph, build_graph, is_action_candidate
from open_diht.filters.captions.normalize import normalize
from open_diht.filters.captions.opinion import Opinion, load_opinion, opinion_fingerprint, revise
from open_diht.filters.captions.parse import CaptionParser, Parse, model_provenance
from open_diht.filters.captions.verifier import Odds, Verifier, load_verifier, weights_fingerprint

VERSION = 6  # increase it if equal captions may get other annotations: runs then annotate again

_PARTICIPANT = pa.struct([("object", pa.int32()), ("role", pa.string())])
SCHEMA = pa.schema(
    [
        ("parsed", pa.string()),
        (
            "objects",
            pa.list_(
                pa.struct(
                    [
                        ("text", pa.string()),
                        ("start", pa.int32()),
                        ("end", pa.int32()),
                        ("kind", pa.string()),
                    ]
                )
            ),
        ),
        (
            "attributes",
            pa.list_(
                pa.struct(
                    [
                        ("object", pa.int32()),
                        ("text", pa.string()),
                        ("kind", pa.string()),
                        ("score", pa.float32()),
                    ]
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
                    [
                        ("source", pa.int32()),
                        ("target", pa.int32()),
                        ("text", pa.string()),
                        ("score", pa.float32()),
                    ]
                )
            ),
        ),
    ]
)
"""Annotation columns: the parsed text; objects with character spans in it; attributes, actions and
relations with scores, 0 to 1: the verifier's, or those after the second opinion."""


@dataclass
class Moves:
    """Totals of what second opinions have changed."""

    asked: int = 0
    """Number of captions that were asked about."""
    raised: int = 0
    lowered: int = 0
    """Numbers of candidates of these captions whose scores became higher (`raised`) or lower."""
    total: float = 0.0
    """Sum of the absolute changes of these candidates' scores."""


def provenance(lean: bool = False, second_opinion: bool = False) -> dict[str, str]:
    """Return what the annotations depend on: versions of model, library, weights and code. It loads
    no model.

    Args:
        lean: see `CaptionAnnotator`.
        second_opinion: see `CaptionAnnotator`.

    Raises:
        ModelMissing: no spaCy model is installed.
        OpinionMissing: the weights of the second opinion cannot be used.
    """
    known = {**model_provenance(), "verifier": weights_fingerprint(), "annotations": str(VERSION)}
    known |= {"second_opinion": opinion_fingerprint()} if second_opinion else {}
    return {**known, "lean": "only captions with a verb candidate are parsed"} if lean else known


class CaptionAnnotator:
    """Turns captions into annotation rows. Create one per process.

    Args:
        lean: captions without a word that may be a verb are tagged but not parsed, because a rule
            that needs an action rejects them in any case. All columns of their rows but `parsed`
            are null.
        second_opinion: captions that the verifier is unsure about get the scores of
            `open_diht.filters.captions.opinion`.

    Raises:
        ModelMissing: see `parse.load_model`.
        OpinionMissing: the weights of the second opinion cannot be used.

    Examples:
        >>> from open_diht.filters.captions.annotate import CaptionAnnotator
        >>> CaptionAnnotator().annotate(["a brown dog catches a red ball"]).column_names
        ['parsed', 'objects', 'attributes', 'actions', 'relations']
    """

    def __init__(self, lean: bool = False, second_opinion: bool = False):
        self._opinion = load_opinion() if second_opinion else None
        self._parser = CaptionParser()
        self._verifier = load_verifier()
        self.moves = Moves()
        self._lean = lean

    @property
    def slow(self) -> str | None:
        """Return why spaCy runs the parser itself, about three times slower. Return None if NumPy
        runs it."""
        return self._parser.slow

    def annotate(self, captions: Sequence[str]) -> pa.Table:
        """Annotate captions. Equal captions are annotated once.

        Args:
            captions: the original captions.

        Returns:
            One row of `SCHEMA` per caption, in order.
        """
        with _uncollected():
            distinct = list(dict.fromkeys(captions))  # keeps the order
            texts = [normalize(caption) for caption in distinct]
            parses = (
                self._parser.parse_where(may_state_an_action, texts)
                if self._lean
                else self._parser.parse(texts)
            )
            graphs = [None if parse is None else build_graph(parse) for parse in parses]
            table = table_of(distinct, texts, graphs, self._verifier, self._opinion, self.moves)
            if len(distinct) == len(captions):
                return table
            places = {caption: place for place, caption in enumerate(distinct)}
            return table.take([places[caption] for caption in captions])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Turn off garbage collection of cycles in the `with` block. Searching the very many small
    tuples and lists without cycles that are created here would take a tenth of the time."""
    was_on = gc.isenabled()
    try:  # before the change, because Ctrl-C may come right after it
        gc.disable()
        yield
    finally:
        if was_on:
            gc.enable()


def may_state_an_action(tagged: Parse) -> bool:
    """Return whether a caption that is tagged but not parsed has a word that may be an action
    candidate after parsing. Arc labels can only rule candidates out."""
    return any(is_action_candidate(tagged, token) for token in range(len(tagged.words)))


def table_of(
    captions: Sequence[str],
    texts: Sequence[str],
    graphs: Sequence[CaptionGraph | None],
    verifier: Verifier,
    opinion: Opinion | None = None,
    moves: Moves | None = None,
) -> pa.Table:
    """Return captions with their normalized texts as rows of `SCHEMA`. A graph is None for a text
    that was tagged but not parsed. Without `opinion` there is no second opinion."""
    known = [graph for graph in graphs if graph is not None]
    asked = [caption for caption, graph in zip(captions, graphs, strict=True) if graph is not None]
    scores = verifier.score(known, asked)
    if opinion is not None:
        revised = revise(scores, known, opinion)
        scores = revised.scores
        if moves is not None:
            moves.asked += revised.asked
            moves.raised += int((revised.moves > 0).sum())
            moves.lowered += int((revised.moves < 0).sum())
            moves.total += float(np.abs(revised.moves).sum())
    columns = {"parsed": pa.array(texts, pa.string())}
    for part in ("objects", *scores._fields):
        elements = [element for graph in known for element in getattr(graph, part)]
        lengths = [None if graph is None else len(getattr(graph, part)) for graph in graphs]
        columns[part] = _lists(
            SCHEMA.field(part).type, lengths, elements, getattr(scores, part, None)
        )
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def _lists(
    kind: pa.ListType,
    lengths: Sequence[int | None],
    elements: Sequence[Any],
    scores: Odds | None = None,
) -> pa.ListArray:
    """Return elements (named tuples) and their scores as lists of the given lengths. A length of
    None gives null."""
    arrays = []
    for field in kind.value_type:
        if field.name == "score" and scores is not None:
            arrays.append(pa.array(scores.round(4).astype(np.float32)))
            continue
        values = list(map(attrgetter(field.name), elements))
        if pa.types.is_list(field.type):
            arrays.append(
                _lists(field.type, list(map(len, values)), list(chain.from_iterable(values)))
            )
        else:
            arrays.append(pa.array(values, field.type))
    offsets = np.concatenate([[0], np.cumsum([length or 0 for length in lengths])])
    # A null offset marks a null list.
    missing = np.array([*(length is None for length in lengths), False])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32(), mask=missing),
        pa.StructArray.from_arrays(arrays, fields=list(kind.value_type)),
        type=kind,
    )
