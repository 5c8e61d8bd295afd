"""Build the rows of kept/ and rejected/: the original columns, the annotations, and the reason."""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.filters.cascade import DEAD, NO_REASON, NOT_READ, Decisions, EachCaption, Reasons
from open_diht.filters.dedup import COPIES

SPOTTED = pa.list_(pa.struct([("text", pa.string()), ("score", pa.float32())]))
ATTRIBUTE = pa.struct([("object", pa.string()), ("attribute", pa.string())])
OURS = ("uid", "caption", "complexity", "actions", "objects", "attributes", "spotted", "overlap")
PASSED, REJECTED = SEVERAL = ("captions", "rejected_captions")
"""Columns of rows that may have several captions: the captions that passed, and the others with
their reasons."""
REJECTED_CAPTION = pa.struct([("caption", pa.string()), ("reason", pa.string())])


def output_rows(original: pa.Table, decisions: Decisions, caption_column: str | None) -> pa.Table:
    """Return the rows of `decisions` with the original columns and the added ones. An original
    column with an added name is renamed, see `making_way`. A string column `caption` that is the
    caption itself is not kept twice. `caption_column` is the original column that holds the
    caption, None if several columns do."""
    if caption_column == "caption" and pa.types.is_string(original["caption"].type):
        original = original.drop_columns("caption")
    own = OURS if decisions.each is None else (*OURS, *SEVERAL)
    columns = making_way(original, (*own, *decisions.measured, "stage", "reason", *COPIES.names))
    rows = decisions.rows
    n = rows.num_rows
    decided = decisions.counts
    texts = pa.list_(pa.string())
    pairs = pa.list_(ATTRIBUTE)
    # Lean runs do not parse captions without a possible verb: their actions are known to be empty,
    # the rest is null.
    known = decided.parsed if decided else None
    asked = decisions.asked
    columns |= {
        "uid": rows["uid"],
        "caption": rows["caption"],
        "complexity": (
            _where(known, pa.array(decided.complexity, pa.int32()))
            if decided
            else pa.nulls(n, pa.int32())
        ),
        "actions": _where(asked, decided.actions.cast(texts)) if decided else pa.nulls(n, texts),
        "objects": _where(known, decided.objects.cast(texts)) if decided else pa.nulls(n, texts),
        "attributes": (
            _where(known, decided.attributes.cast(pairs)) if decided else pa.nulls(n, pairs)
        ),
        "spotted": _spotted(decisions),
        "overlap": pa.array(decisions.overlaps, pa.int32(), mask=decisions.overlaps == NOT_READ),
        **decisions.measured,
    }
    if decisions.each is not None:
        columns |= _captions(decisions.each, decisions.reasons)
    return pa.table(columns)


def _captions(each: EachCaption, rows: Reasons) -> dict[str, pa.Array]:
    """Return the columns `SEVERAL` of n rows, whose final reasons are `rows` (n,)."""
    reasons = each.settled(rows)
    passed = (reasons == NO_REASON).astype(bool)
    named = [each.captions, pa.array(reasons.tolist(), pa.string())]
    rejected = pa.StructArray.from_arrays(named, fields=list(REJECTED_CAPTION))

    def lists(values: pa.Array, mine: NDArray[np.bool_]) -> pa.Array:
        offsets = np.searchsorted(each.owners[mine], np.arange(len(rows) + 1)).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), values.filter(pa.array(mine)))

    return {PASSED: lists(each.captions, passed), REJECTED: lists(rejected, ~passed)}


def _where(known: NDArray[np.bool_] | None, values: pa.Array) -> pa.Array:
    """Return the values, with null where `known` is false."""
    if known is None or known.all():
        return values
    return pc.if_else(pa.array(known), values, pa.scalar(None, values.type))


def making_way(original: pa.Table, names: Iterable[str]) -> dict[str, pa.ChunkedArray]:
    """Return a table's columns. Rename those in `names` to original_<name>, with more such prefixes
    if needed."""
    columns = {name: original[name] for name in original.column_names}
    for name in names:
        if name in columns:
            moved = columns.pop(name)
            other = f"original_{name}"
            while other in columns:
                other = f"original_{other}"
            columns[other] = moved
    return columns


def rejected_rows(
    table: pa.Table, reasons: Reasons, stages: Mapping[str, str], copies: pa.Table | None = None
) -> pa.Table:
    """Return the rejected rows among the n rows of `output_rows`, with the columns `stage` and
    `reason`. If `copies`, n rows of `COPIES`, is given, its columns are added."""
    gone = ((reasons != NO_REASON) & (reasons != DEAD)).astype(bool)
    table, reasons = table.filter(pa.array(gone)), reasons[gone]
    table = table.append_column(
        "stage", pa.array([stages[reason] for reason in reasons], pa.string())
    )
    table = table.append_column("reason", pa.array(reasons.tolist(), pa.string()))
    if copies is not None:
        for name in copies.column_names:
            table = table.append_column(name, copies[name].filter(pa.array(gone)))
    return table


def _spotted(decisions: Decisions) -> pa.Array:
    records = decisions.records
    found = decisions.found
    if records is None or found is None:
        return pa.nulls(decisions.rows.num_rows, SPOTTED)
    lines = records["spotted"].combine_chunks().take(pa.array(found, mask=found < 0)).to_pylist()
    slim = [
        None if row is None else [{"text": line["text"], "score": line["score"]} for line in row]
        for row in lines
    ]
    return pa.array(slim, SPOTTED)
