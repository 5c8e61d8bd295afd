"""Search in an output: rows that fit, a page at a time, in the order of the plan.

A query reads the files of one unit after the other and no more of them than it needs, and ends when a page is full or
its time is up; where it ended is where the next page begins. So the size of an output does not matter, and every page
says how many rows were looked at.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from open_diht.filters.base import Bools
from open_diht.pipelines.stages.dedup.findings import COPIES
from open_diht.pipelines.stages.output import OURS
from open_diht.pipelines.store.layout import KINDS
from open_diht.pipelines.store.storage import open_parts
from open_diht.pipelines.view.output import ENDS, UNDECIDED, UNREADABLE, Output
from open_diht.pipelines.view.places import ordinals_of

PAGE_ROWS = 24
SECONDS = 3.0
"""A query ends after about this time, though its page is not full."""
_GROUP_ROWS, _GROUP_BYTES = 65_536, 32 * 2**20
"""Row groups are read together up to these bounds."""
_SHOWN = ("uid", "caption", "stage", "reason", "complexity", "actions", "overlap", "spotted", "duplicate_of", "error")
"""Columns that a list of rows shows, where the file has them."""
NOT_OF_MANIFEST = frozenset({*OURS, *COPIES.names, "stage", "reason"})
"""Columns that a run adds to the manifest's."""
_LOOK, _PROBE = 20, 1_000
"""Units in which a file is looked for, and rows that tell which columns hold numbers."""
_NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Numbers from `low` to `high`, both included; None: no bound."""

    low: float | None = None
    high: float | None = None

    def __bool__(self) -> bool:
        return self.low is not None or self.high is not None

    def holds(self, values: NDArray[np.float64]) -> Bools:
        """Of each value whether it lies between them; NaN, where there is none, does not."""
        inside = ~np.isnan(values)
        if self.low is not None:
            inside &= values >= self.low
        if self.high is not None:
            inside &= values <= self.high
        return inside


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for; a row fits where all of it applies."""

    end: str = ""
    """One of `ENDS`; "" for all of them."""
    reason: str = ""
    """Why rows were rejected, or the error of dead letters; "" for any."""
    caption: str = ""
    """Text in the caption, whatever its case."""
    read: str = ""
    """Text in one of the lines that were read in the image, whatever its case."""
    complexity: Bounds = Bounds()
    overlap: Bounds = Bounds()
    action: Bounds = Bounds()
    """The verifier's score of the best action candidate."""
    column: str = ""
    """A column of the manifest with numbers."""
    values: Bounds = Bounds()
    """What is asked of it."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a row lies: a unit, an end, and its place in the file of both."""

    unit: str
    end: str
    row: int

    def __str__(self) -> str:
        return f"{self.unit}.{self.end}.{self.row}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """The inverse of `str`. Raises ValueError."""
        unit, end, row = text.split(".")
        if end not in ENDS or not row.isdecimal() or len(row) > 12:
            raise ValueError(f"{text!r} is no place of a row")
        return cls(unit, end, int(row))


@dataclass(frozen=True)
class Hit:
    """A row that fits."""

    place: Place
    row: dict[str, Any]


@dataclass(frozen=True)
class Page:
    """What a query has found."""

    hits: tuple[Hit, ...]
    looked_at: int
    """Rows."""
    after: Place | None
    """Where the search goes on; None where all was looked at."""
    seconds: float


def search(
    output: Output, query: Query, start: Place | None = None, rows: int = PAGE_ROWS, seconds: float = SECONDS
) -> Page:
    """The next rows that fit.

    Args:
        output: where.
        query: what.
        start: the place to begin at, of the page before; None: the first row.
        rows: at most so many.
        seconds: after about so long it ends; it looks at one piece of a file at least.
    """
    began, looked = time.monotonic(), 0
    hits: list[Hit] = []
    for piece in _pieces(output, query, start):
        for row, found in piece.hits(query):
            if len(hits) == rows:
                looked += row - piece.begin - piece.skip
                return Page(tuple(hits), looked, Place(piece.unit, piece.end, row), time.monotonic() - began)
            hits.append(Hit(Place(piece.unit, piece.end, row), found))
        looked += piece.rows
        if time.monotonic() - began > seconds:
            return Page(tuple(hits), looked, Place(piece.unit, piece.end, piece.stop), time.monotonic() - began)
    return Page(tuple(hits), looked, None, time.monotonic() - began)


def numeric_columns(output: Output) -> list[str]:
    """The manifest's own columns that hold numbers, as the first file of rows has them."""
    listing = output.listing()
    for path in (output.part(end, unit) for unit in listing.decided[:_LOOK] for end in ("kept", "rejected")):
        try:
            with open_parts(path) as source:
                file = pq.ParquetFile(source)
                names = [name for name in file.schema_arrow.names if name not in NOT_OF_MANIFEST]
                table = file.read_row_group(0, columns=names).slice(0, _PROBE)
        except FileNotFoundError:
            continue
        return [name for name in names if _holds_numbers(table[name])]
    return []


def _holds_numbers(column: pa.ChunkedArray) -> bool:
    """Whether it does; texts, as in a manifest of TSV, where all of them are numbers."""
    if not pa.types.is_string(column.type):
        return _is_number(column.type)
    texts = pc.drop_null(column)
    return len(texts) > 0 and bool(pc.all(pc.match_substring_regex(texts, _NUMBER)).as_py())


def random_place(output: Output) -> Place | None:
    """The first row of a random unit; None where there is none."""
    listing = output.listing()
    units = [*listing.decided, *listing.undecided]
    if not units:
        return None
    unit = random.choice(units)
    return Place(unit, KINDS[0] if unit in listing.decided else UNDECIDED, 0)


def row_at(output: Output, place: Place) -> dict[str, Any] | None:
    """All columns of a row; None where there is none (any more)."""
    try:
        with open_parts(output.part(place.end, place.unit)) as source:
            first, file = 0, pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if place.row < first + count:
                    (found,) = file.read_row_group(group).slice(place.row - first, 1).to_pylist()
                    return dict(found)
                first += count
    except FileNotFoundError:
        return None
    return None


def _pieces(output: Output, query: Query, start: Place | None) -> Iterator[_Piece]:
    """What there is to look at, from `start` on."""
    listing = output.listing()
    ends = {UNREADABLE: ("dead_letter",)} | dict.fromkeys(listing.decided, KINDS)
    ends |= dict.fromkeys(listing.undecided, (UNDECIDED,))
    begin = (output.order(start.unit), ENDS.index(start.end)) if start else (0, 0)
    for unit in sorted(ends, key=output.order):
        for end in ends[unit]:
            here = output.order(unit), ENDS.index(end)
            if here < begin or query.end not in ("", end):
                continue
            first = start.row if start and here == begin else 0
            if rows := _passed_over(output, query, unit, end):
                if first < rows:
                    yield _Piece(output, None, unit, end, [], 0, first, rows)
            else:
                yield from _of_file(output, query, unit, end, first)


def _passed_over(output: Output, query: Query, unit: str, end: str) -> int:
    """The rows of a unit that have come to an end, where its commit record says that none has the reason asked for."""
    if not query.reason or end == UNDECIDED or unit == UNREADABLE:
        return 0
    record = output.decide_record(unit)
    if record is None:
        return 0
    counts = {"kept": {"": record["kept"]}, "rejected": record["rejected"], "dead_letter": record["dead"]}[end]
    return 0 if counts.get(query.reason) else sum(counts.values())


def _of_file(output: Output, query: Query, unit: str, end: str, first: int) -> Iterator[_Piece]:
    try:
        with open_parts(output.part(end, unit)) as source:
            file = pq.ParquetFile(source)
            for groups, begin, rows in _together(file):
                if begin + rows > first:
                    yield _Piece(output, file, unit, end, groups, begin, max(first - begin, 0), rows)
    except FileNotFoundError:  # decided anew at this moment
        return


def _together(file: pq.ParquetFile) -> Iterator[tuple[list[int], int, int]]:
    """Row groups that are read together, the place of their first row, and how many rows they have."""
    caption = [file.schema.column(number).path for number in range(len(file.schema))].index("caption")
    groups: list[int] = []
    begin = rows = size = 0
    for number in range(file.num_row_groups):
        known = file.metadata.row_group(number)
        more = known.column(caption).total_uncompressed_size
        if groups and (rows + known.num_rows > _GROUP_ROWS or size + more > _GROUP_BYTES):
            yield groups, begin, rows
            groups, begin, rows, size = [], begin + rows, 0, 0
        groups.append(number)
        rows, size = rows + known.num_rows, size + more
    if groups:
        yield groups, begin, rows


@dataclass(frozen=True)
class _Piece:
    """Some row groups of a file."""

    output: Output
    file: pq.ParquetFile | None
    """None where the commit record says that no row fits."""
    unit: str
    end: str
    groups: list[int]
    begin: int
    """Place of the first row in the file."""
    skip: int
    """Rows that were looked at before."""
    all_rows: int

    @property
    def rows(self) -> int:
        """How many are looked at."""
        return self.all_rows - self.skip

    @property
    def stop(self) -> int:
        """The place behind the last row."""
        return self.begin + self.all_rows

    def hits(self, query: Query) -> Iterator[tuple[int, dict[str, Any]]]:
        """Places and rows that fit."""
        if self.file is None:
            return
        names = self.file.schema_arrow.names
        asked = [name for name in _columns(query) if name in names]
        if len(asked) < len(_columns(query)):
            return  # what is asked of is not known of these rows
        fits = np.ones(self.all_rows, bool)
        fits[: self.skip] = False
        if asked:
            fits &= _fits(self.file.read_row_groups(self.groups, columns=asked), query)
        if query.action and fits.any():
            fits &= self._actions(query.action, fits)
        places = np.flatnonzero(fits)
        first = 0
        for group in self.groups:
            count = self.file.metadata.row_group(group).num_rows
            mine = places[(places >= first) & (places < first + count)]
            if len(mine):
                shown = [name for name in _SHOWN if name in names]
                table = self.file.read_row_group(group, columns=shown)
                for place in mine.tolist():
                    (row,) = table.slice(place - first, 1).to_pylist()
                    yield self.begin + place, row
            first += count

    def _actions(self, bounds: Bounds, among: Bools) -> Bools:
        """Of each row whether the best score of an action lies within the bounds."""
        known = ordinals_of(self.output, self.unit, self.end)[self.begin : self.stop]
        best = _best_scores(self.output, self.unit)
        scores = np.full(self.all_rows, np.nan)
        have = among & (known >= 0)
        scores[have] = [best.get(ordinal, np.nan) for ordinal in known[have].tolist()]
        return bounds.holds(scores)


def _columns(query: Query) -> list[str]:
    wanted = {
        "caption": query.caption,
        "spotted": query.read,
        "complexity": query.complexity,
        "overlap": query.overlap,
    }
    found = [name for name, asked in wanted.items() if asked]
    if query.column and query.values:
        found.append(query.column)
    if query.reason:
        found.append("error" if query.end == "dead_letter" else "reason")
    return found


def _fits(table: pa.Table, query: Query) -> Bools:
    fits = np.ones(table.num_rows, bool)
    if query.reason:
        name = "error" if query.end == "dead_letter" else "reason"
        fits &= _bools(pc.equal(table[name], query.reason))
    if query.caption:
        fits &= _bools(pc.match_substring(table["caption"], query.caption, ignore_case=True))
    for name, bounds in (("complexity", query.complexity), ("overlap", query.overlap), (query.column, query.values)):
        if name and bounds:
            fits &= bounds.holds(_numbers(table[name]))
    if query.read:
        fits &= _any_line(table["spotted"], query.read)
    return fits


def _any_line(spotted: pa.ChunkedArray, text: str) -> Bools:
    lists = spotted.combine_chunks()
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
    lines = pc.list_flatten(lists)
    hit = _bools(pc.match_substring(pc.struct_field(lines, "text"), text, ignore_case=True))
    found = np.zeros(len(lengths), bool)
    found[np.repeat(np.arange(len(lengths)), lengths)[hit]] = True
    return found


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.match_substring_regex(column, _NUMBER), column, pa.scalar(None, pa.string()))
    elif not _is_number(column.type):
        return np.full(len(column), np.nan)
    return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _bools(column: Any) -> Bools:
    return np.asarray(pc.fill_null(column, False), bool)


def _best_scores(output: Output, unit: str) -> dict[int, float]:
    """The best score of an action candidate by ordinal, of rows that have one."""
    found: dict[int, float] = {}
    with open_parts(output.layout.data("captions", unit)) as source:
        file = pq.ParquetFile(source)
        if "actions" not in file.schema_arrow.names:
            return found
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["ordinal", "actions.list.element.score"])
            lists = table["actions"].combine_chunks()
            lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
            have = np.flatnonzero(lengths)
            scores = np.asarray(pc.struct_field(pc.list_flatten(lists), "score"), np.float64)
            if len(have):
                starts = np.concatenate([[0], np.cumsum(lengths[have])[:-1]])
                best = np.maximum.reduceat(scores, starts)
                found.update(zip(np.asarray(table["ordinal"])[have].tolist(), best.tolist(), strict=True))
    return found
