"""Check in the result files, by counting, that no row was lost or duplicated."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from open_diht.common.naming import counted
from open_diht.filters.cascade import DEAD, NO_REASON
from open_diht.filters.output import PASSED, REJECTED
from open_diht.filters.several_captions import OTHER_CAPTIONS, captions_in
from open_diht.pipelines.manifests.plan import Unit
from open_diht.pipelines.report.funnel import CaptionCounts, FunnelRecord
from open_diht.pipelines.store.commit import remove
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import caption_record
from open_diht.pipelines.store.storage import StorePath, each, read_table, row_count, row_groups

_T = TypeVar("_T")
_NAMED = 3  # damaged files named in a message


class NotConserved(RuntimeError):
    """The result files do not hold each row once, because of a bug or because the output folder was
    changed."""


class Damaged(NotConserved):
    """A file cannot be read."""

    def __init__(self, path: StorePath, message: str):
        self.path = path
        self.what = f"{path} is damaged ({message})"
        super().__init__(f"{self.what}; remove it, and run the same command to write it again")


def check_conservation(layout: Layout, units: Sequence[Unit], funnel: FunnelRecord) -> None:
    """Raise NotConserved, with the numbers or the files, if the rows of a unit or of the run do not
    add up: rows in = kept + rejected (by one reason each) + dead-letter rows + not decided. Rows
    are counted in the files. Check the same for captions if a row may have several."""
    expected = {f"part-{unit.name}.parquet" for unit in units} | {"part-unreadable.parquet"}
    for kind in ("kept", "rejected", "dead_letter"):
        for path in (layout.root / kind).glob("*.parquet"):
            if path.name not in expected:
                raise NotConserved(f"{path} belongs to no unit of this run; remove it")
    reasons: Counter[str] = Counter()
    total = 0
    damaged: list[Damaged] = []
    for found in each(lambda unit: _counted(layout, unit.name), units, layout.root):
        if isinstance(found, Damaged):
            damaged.append(found)
        else:
            total += found[0]
            reasons.update(found[1])
    if damaged:
        named = "; ".join(one.what for one in damaged[:_NAMED])
        raise NotConserved(
            f"the result files of {counted(len(damaged), 'unit')} cannot be read: {named}"
            f"{'; ...' if damaged[_NAMED:] else ''}. Run the same command to write them again"
        ) from damaged[0].__cause__
    total += funnel["not_decided"]["rows"]
    if total != funnel["rows_in"] or dict(reasons) != {
        r: n for r, n in funnel["rejected"].items() if n
    }:
        raise NotConserved(
            f"{funnel['rows_in']} rows in, {total} out; rejected by data "
            f"{dict(reasons)}, by records {funnel['rejected']}"
        )
    if "captions" in funnel:
        check_captions(layout, units, funnel["captions"])


def check_captions(layout: Layout, units: Sequence[Unit], counts: CaptionCounts) -> None:
    """Raise NotConserved unless captions in = passed + rejected (by one reason) + in dead-letter
    rows + not decided."""
    total: Counter[str] = Counter()
    for unit, found in zip(
        units, each(lambda unit: _captions_of(layout, unit.name), units, layout.root), strict=True
    ):
        read = caption_record(layout, unit.name)["captions"]
        if read != found.total():
            raise NotConserved(
                f"unit {unit.name}: {read} captions in, {found.total()} out; remove "
                f"{layout.commit('decide', unit.name)}, and the same command decides the unit again"
            )
        total.update(found)
    ends = {NO_REASON: counts["passed"], DEAD: counts["dead_letter"], **counts["rejected"]}
    if total.total() + counts["not_decided"] != counts["captions_in"] or total != Counter(ends):
        raise NotConserved(f"captions by data: {dict(total)}, by records: {dict(counts)}")


def _captions_of(layout: Layout, unit: str) -> Counter[str]:
    """Count the captions of a unit by reason. `NO_REASON` counts those that passed, `DEAD` those in
    dead letters."""
    passed = columns_of(layout.part("kept", unit), PASSED)[PASSED]
    counts = Counter(
        {NO_REASON: pc.sum(pc.list_value_length(passed)).as_py() or 0 if len(passed) else 0}
    )
    for kind in ("kept", "rejected"):
        lists = columns_of(layout.part(kind, unit), REJECTED)[REJECTED]
        reasons = (
            pc.struct_field(pc.list_flatten(lists), "reason")
            if len(lists)
            else pa.array([], pa.string())
        )
        counts.update(
            {entry["values"]: entry["counts"] for entry in reasons.value_counts().to_pylist()}
        )
    dead = columns_of(layout.part("dead_letter", unit), "ordinal")["ordinal"]
    if len(dead):  # dead letters of unreadable rows are no rows of stage `captions`
        ordinals = dead.combine_chunks()

        def captions_at(path: StorePath) -> int:
            groups = row_groups(path, ["ordinal", OTHER_CAPTIONS])
            return sum(
                captions_in(rows.filter(pc.is_in(rows["ordinal"], value_set=ordinals)))
                for rows in groups
            )

        counts[DEAD] += readable(captions_at, layout.data("captions", unit))
    return counts


def _counted(layout: Layout, unit: str) -> tuple[int, Counter[str]] | Damaged:
    """Return the number of rows of a unit, and the number of its rejected rows by reason. If a file
    is damaged, delete the unit's record and return the error: after a power failure more units may
    have such files."""
    record = caption_record(layout, unit)
    try:
        kept = readable(row_count, layout.part("kept", unit))
        reasons = columns_of(layout.part("rejected", unit), "reason")["reason"]
        ordinals = columns_of(layout.part("dead_letter", unit), "ordinal")["ordinal"]
    except Damaged as damaged:
        remove(layout.commit("decide", unit))
        return damaged
    dead = len(ordinals) - ordinals.null_count  # entries without an ordinal are for units, not rows
    rejected = Counter(
        {entry["values"]: entry["counts"] for entry in reasons.value_counts().to_pylist()}
    )
    if None in rejected:
        raise NotConserved(f"unit {unit}: {rejected[None]} rejected rows without a reason")
    if record["rows"] != kept + len(reasons) + dead:
        raise NotConserved(
            f"unit {unit}: {record['rows']} rows in, but kept {kept} + rejected {len(reasons)} +"
            f" dead letters {dead}; remove {layout.commit('decide', unit)}, and run the same"
            " command to decide the unit again"
        )
    return record["rows"], rejected


def columns_of(path: StorePath, *names: str) -> pa.Table:
    """Return columns of a result file, by default all, or empty ones without a file. Raise
    Damaged."""

    def read(path: StorePath) -> pa.Table:
        table = read_table(path, columns=[*names] or None)
        table.validate(full=True)  # text that is not UTF-8 could not be counted
        return table

    try:
        return readable(read, path)
    except FileNotFoundError:
        return pa.table({name: pa.array([], pa.string()) for name in names})


def readable(read: Callable[[StorePath], _T], path: StorePath) -> _T:
    try:
        return read(path)
    except (
        pa.ArrowInvalid,
        pa.ArrowNotImplementedError,
        KeyError,
        UnicodeDecodeError,
        OSError,
    ) as error:
        # Arrow raises a plain OSError without a number for bad bytes; others are of the disk or the
        # store.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        message = " ".join(str(error).split())
        raise Damaged(path, message) from error
