"""Check in the result files that no row was lost or duplicated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from open_diht.pipelines.manifests.plan import Unit
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath, each, read_table, row_count

_T = TypeVar("_T")


class NotConserved(RuntimeError):
    """Rows were lost or duplicated, by a bug or by changes to the output folder."""


def check_conservation(layout: Layout, units: Sequence[Unit], funnel: FunnelRecord) -> None:
    """Check that rows in = kept + rejected (by one reason each) + dead-letter rows + not decided, for each unit and in
    total. Rows are counted in the files.

    Args:
        layout: paths of the output folder.
        units: the decided units.
        funnel: the counts of the run.

    Raises:
        NotConserved: the equation does not hold; the message has the unit and the numbers.
    """
    expected = {f"part-{unit.name}.parquet" for unit in units} | {"part-unreadable.parquet"}
    for kind in ("kept", "rejected", "dead_letter"):
        for path in (layout.root / kind).glob("*.parquet"):
            if path.name not in expected:
                raise NotConserved(f"{path} belongs to no unit of this run; remove it")
    reasons: Counter[str] = Counter()
    total = 0
    for rows, rejected in each(lambda unit: _check_unit(layout, unit.name), units, layout.root):
        total += rows
        reasons.update(rejected)
    total += funnel["not_decided"]["rows"]
    if total != funnel["rows_in"] or dict(reasons) != {r: n for r, n in funnel["rejected"].items() if n}:
        raise NotConserved(
            f"{funnel['rows_in']} rows in, {total} out; rejected by data "
            f"{dict(reasons)}, by records {funnel['rejected']}"
        )


def _check_unit(layout: Layout, unit: str) -> tuple[int, Counter[str]]:
    """Return the number of rows of a unit, and the number of its rejected rows by reason."""
    record = read_json(layout.commit("captions", unit))
    kept = _readable(row_count, layout.part("kept", unit))
    reasons = _column(layout.part("rejected", unit), "reason")
    # Entries without an ordinal are for units, not rows.
    ordinals = _column(layout.part("dead_letter", unit), "ordinal")
    dead = len(ordinals) - ordinals.null_count
    rejected = Counter({entry["values"]: entry["counts"] for entry in reasons.value_counts().to_pylist()})
    if None in rejected:
        raise NotConserved(f"unit {unit}: {rejected[None]} rejected rows without a reason")
    if record["rows"] != kept + len(reasons) + dead:
        raise NotConserved(
            f"unit {unit}: {record['rows']} rows in, but kept {kept} + rejected {len(reasons)} + dead letters {dead}; "
            f"remove {layout.commit('decide', unit)}, and run the same command to decide the unit again"
        )
    return record["rows"], rejected


def _column(path: StorePath, name: str) -> pa.ChunkedArray:
    try:
        return _readable(lambda path: read_table(path, columns=[name])[name], path)
    except FileNotFoundError:
        return pa.chunked_array([], pa.string())


def _readable(read: Callable[[StorePath], _T], path: StorePath) -> _T:
    try:
        return read(path)
    except pa.ArrowInvalid as error:
        raise NotConserved(
            f"{path} is damaged ({error}); remove it, and run the same command to write it again"
        ) from error
