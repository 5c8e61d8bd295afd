"""Find the ordinals of rows in output files. kept/ and rejected/ store none, but keep the order of the rows."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.filters.cascade import KEPT, Reasons
from open_diht.pipelines.store.storage import StorePath, read_table, row_count
from open_diht.pipelines.view.output import UNDECIDED, Output


def ordinals_of(output: Output, unit: str, end: str) -> NDArray[np.int64]:
    """Return the ordinals (n,) int64 in the unit of the rows in its file of one of `ENDS`; -1 for a dead-letter row of
    the whole unit. Raise FileNotFoundError if files are missing, as while a run decides the unit again."""
    if end == UNDECIDED:
        return _column(output.layout.data("captions", unit))
    if end == "dead_letter":
        return _dead(output, unit)
    found = kept = _column(output.layout.data("decide", unit))
    if end == "rejected":
        annotated = _column(output.layout.data("captions", unit))
        found = np.setdiff1d(annotated, np.concatenate([kept, _dead(output, unit)]))
    if len(found) != row_count(output.part(end, unit)):
        raise FileNotFoundError(f"unit {unit} as it was")  # a run is deciding it again at this moment
    return found


def reasons_of(output: Output, unit: str, ordinals: NDArray[np.int64]) -> Reasons:
    """Return the reason (n,) why a run rejected each row of a decided unit; `KEPT` for all other rows. Raise
    FileNotFoundError as `ordinals_of` does."""
    found: Reasons = np.full(len(ordinals), KEPT, object)
    try:
        reasons = read_table(output.part("rejected", unit), ["reason"])["reason"].to_pylist()
    except FileNotFoundError:
        return found
    rejected = ordinals_of(output, unit, "rejected").tolist()
    if len(rejected) != len(reasons):
        raise FileNotFoundError(f"unit {unit} as it was")
    by_ordinal = dict(zip(rejected, reasons, strict=True))
    for row, ordinal in enumerate(ordinals.tolist()):
        found[row] = by_ordinal.get(ordinal, KEPT)
    return found


def _dead(output: Output, unit: str) -> NDArray[np.int64]:
    try:
        return _column(output.part("dead_letter", unit))
    except FileNotFoundError:
        return np.empty(0, np.int64)


def _column(path: StorePath) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(read_table(path, ["ordinal"])["ordinal"], -1)).astype(np.int64)
