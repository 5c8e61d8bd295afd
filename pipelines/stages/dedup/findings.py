"""Read the duplicates that were found, by the unit of their rows."""

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from open_diht.filters.cascade import NO_REASON, Reasons
from open_diht.filters.dedup import COPIES
from open_diht.pipelines.stages.annotator import DuplicateFiles
from open_diht.pipelines.stages.keys import ENTRIES
from open_diht.pipelines.store.commit import TableFile
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath, open_parts

PAIR = "pair"
IMAGE = "image"
SEMANTIC = "semantic"
UID = "uid"
"""Rows that are another pair than the first row with their uid. They are no duplicates and are
never rejected."""
KINDS = (PAIR, IMAGE, SEMANTIC)
"""The kinds in the order of comparison; the reason of a kind is `duplicate_<kind>`."""
# Fewer rows make a larger footer, which every unit reads; more make a unit read more entries of
# others.
_GROUP_ROWS = 16_384


def duplicates_stage(kind: str) -> str:
    """Return the name of the stage that finds the duplicates of a kind."""
    return f"{kind}_duplicates"


def write_entries(path: StorePath, tables: Iterable[pa.Table]) -> int:
    """Write tables of `ENTRIES`, sorted by unit, in small row groups for reading by unit. Return
    their number."""
    with TableFile(path, ENTRIES) as out:
        for table in tables:
            for first in range(0, table.num_rows, _GROUP_ROWS):
                out.write(table.slice(first, _GROUP_ROWS))
    return out.rows


def part_name(number: int) -> str:
    """Return the name of a unit, and of its file, that compares a range of keys or a group of
    clusters, from its number."""
    return f"{number:04d}"


class Entries:
    """A reader of entries of all kinds by unit. Footers are read once."""

    def __init__(self, layout: Layout):
        self._layout = layout
        self._footers: dict[tuple[str, int], pq.FileMetaData] = {}

    def of(self, files: DuplicateFiles, unit: int) -> pa.Table:
        """Return the entries of a unit, sorted by ordinal."""
        tables = [
            ENTRIES.empty_table(),
            *(self._of_file(files.kind, number, unit) for number in range(files.count)),
        ]
        return pa.concat_tables(tables).sort_by("ordinal")

    def _of_file(self, kind: str, number: int, unit: int) -> pa.Table:
        footer = self._footers.get((kind, number))
        if footer is not None and not _groups(footer, unit):
            return ENTRIES.empty_table()
        with open_parts(self._layout.data(duplicates_stage(kind), part_name(number))) as source:
            file = pq.ParquetFile(source, metadata=footer)
            footer = self._footers[kind, number] = file.metadata
            table = file.read_row_groups(_groups(footer, unit))
        return table.filter(pc.equal(table["unit"], unit))


def _groups(footer: pq.FileMetaData, unit: int) -> list[int]:
    """Return the row groups that can contain entries of a unit."""
    statistics = [
        footer.row_group(group).column(0).statistics for group in range(footer.num_row_groups)
    ]
    return [
        group
        for group, known in enumerate(statistics)
        if known is None or known.min <= unit <= known.max
    ]


def reject_duplicates(
    rows: pa.Table, reasons: Reasons, duplicates: Mapping[str, pa.Table], unit: str
) -> pa.Table:
    """Write the reasons of duplicates into `reasons` (n,), and return the rows' `COPIES`, null for
    all other rows. `duplicates` has the unit's entries by kind, for the kinds that reject. Raise
    RuntimeError if a duplicate was rejected before, since it should not have been compared then."""
    ordinals = np.asarray(rows["ordinal"])
    # Indices into the concatenated entries of all kinds.
    taken = np.full(len(ordinals), -1, np.int64)
    first = 0
    for kind in KINDS:
        entries = duplicates.get(kind)
        if entries is None or not entries.num_rows:
            continue
        known = np.asarray(entries["ordinal"])
        places = np.minimum(np.searchsorted(known, ordinals), len(known) - 1)
        hit = known[places] == ordinals
        if (reasons[hit] != NO_REASON).any():
            raise RuntimeError(
                f"unit {unit}: rows are called duplicates ({kind}) that were rejected before"
            )
        reasons[hit] = f"duplicate_{kind}"
        taken[hit] = places[hit] + first
        first += entries.num_rows
    if not first:
        return pa.table([pa.nulls(len(ordinals), field.type) for field in COPIES], schema=COPIES)
    everything = pa.concat_tables([duplicates[kind] for kind in KINDS if kind in duplicates])
    mine = everything.take(pa.array(taken, mask=taken < 0))
    return pa.table([mine["duplicate_of"], mine["similarity"]], schema=COPIES)
