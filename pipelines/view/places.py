"""Which row of a unit stands where: the files of an output have no ordinals, and keep the order of the rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.pipelines.stages.cascade import KEPT, Reasons
from open_diht.pipelines.store.storage import read_table, row_count
from open_diht.pipelines.view.output import UNDECIDED, Output


def ordinals_of(output: Output, unit: str, end: str) -> NDArray[np.int64]:
    """For each row of a unit's file of an end its ordinal in the unit; -1 where it has none, as the dead letter of a
    whole unit.

    Raises:
        FileNotFoundError: the unit is being decided anew.
    """
    if end == UNDECIDED:
        return _annotated(output, unit)
    if end == "dead_letter":
        return _dead(output, unit)
    kept = _kept(output, unit)
    if end == "kept":
        found = kept
    else:
        found = np.setdiff1d(_annotated(output, unit), np.concatenate([kept, _dead(output, unit)]))
    if len(found) != row_count(output.part(end, unit)):
        raise FileNotFoundError(f"unit {unit} as it was")  # it is decided anew at this moment
    return found


def reasons_of(output: Output, unit: str, ordinals: NDArray[np.int64]) -> Reasons:
    """Return why a run rejected rows of a decided unit; `KEPT` for all other rows.

    Args:
        output: the output that holds the unit.
        unit: its name.
        ordinals: (n,) the rows asked about.

    Raises:
        FileNotFoundError: a run is deciding the unit again at this moment.
    """
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


def _annotated(output: Output, unit: str) -> NDArray[np.int64]:
    return _numbers(read_table(output.layout.data("captions", unit), ["ordinal"]))


def _kept(output: Output, unit: str) -> NDArray[np.int64]:
    return _numbers(read_table(output.layout.data("decide", unit), ["ordinal"]))


def _dead(output: Output, unit: str) -> NDArray[np.int64]:
    try:
        return _numbers(read_table(output.part("dead_letter", unit), ["ordinal"]))
    except FileNotFoundError:
        return np.empty(0, np.int64)


def _numbers(table: pa.Table) -> NDArray[np.int64]:
    return np.asarray(pc.fill_null(table["ordinal"], -1)).astype(np.int64)
