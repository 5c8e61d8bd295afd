"""Search an output for rows that fit, a page at a time, in plan order.

A query reads the files of one unit after another. It ends at the first row that a full page has no
room for, when its time is up, or after the last row; the next page begins where it ended, and every
page shows how many rows were examined.

A query with an order reads the columns of its order and conditions of all rows that it ranks, a
piece of a file at a time, and holds only the places and numbers of the rows that are asked for.
"""

import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from open_diht.common.naming import nearest
from open_diht.filters.base import Bools
from open_diht.filters.cascade import cascade
from open_diht.filters.dedup import COPIES
from open_diht.filters.output import OURS, SEVERAL
from open_diht.pipelines.funnel import count
from open_diht.pipelines.output import ENDS, UNDECIDED, UNREADABLE, Output
from open_diht.pipelines.report.funnel import FunnelRecord, reasons_of
from open_diht.pipelines.store.layout import KINDS
from open_diht.pipelines.store.storage import Row, each, open_parts, row_groups, rows_of

# Divisible by 2, 3 and 4 cards in a row.
PAGE_ROWS = 24
SECONDS = 3.0
"""A query ends after about this time even if its page is not full."""
ORDERED_ROWS = 1_000_000
"""Number of rows that a page with an order ranks at most, to the end of a piece of a file, so that
it loads within seconds."""
MOST_RANKED = 100_000
"""Maximum number of rows of a query with an order: their captions are in memory together."""
ACTION_SCORE = "action_score"
"""An order that is no column of the results: the highest score that the verifier gave a candidate
for an action of the caption, which `min_action_score` of a preset compares."""
_UNITS_COUNTED = 2_000
"""Maximum number of commit records that are summed for an output whose run has not ended. So the
page loads within seconds, from a store too."""
_GROUP_ROWS = 65_536
_GROUP_BYTES = 32 * 2**20
"""Row groups are read together up to this many rows and bytes of captions. A larger row group is
read alone."""
SHOWN = (
    "uid",
    "caption",
    "stage",
    "reason",
    "complexity",
    "actions",
    "overlap",
    "spotted",
    "duplicate_of",
    "error",
)
"""Columns that a list of rows shows, if the file has them."""
_LOOK = 20
_PROBE = 1_000
"""Number of units that are searched for a file, and number of rows that determine which columns
hold numbers."""
_NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"


BOUNDS = ("complexity", "overlap", "values")
_PARAMETERS = (
    "end",
    "caption",
    "read",
    "column",
    "order",
    "ascending",
    "from",
    "skip",
    *(f"{name}_{end}" for name in BOUNDS for end in ("low", "high")),
)
_LONGEST = 1_000
"""Maximum number of characters of a text to search for."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A range from `low` to `high`, both included. None means no bound."""

    low: float | None = None
    high: float | None = None

    def __bool__(self) -> bool:
        return self.low is not None or self.high is not None

    def holds(self, values: NDArray[np.float64]) -> Bools:
        """Return a mask of the values within the bounds. NaN, which marks a missing value, is
        outside."""
        inside = ~np.isnan(values)
        if self.low is not None:
            inside &= values >= self.low
        if self.high is not None:
            inside &= values <= self.high
        return inside


@dataclass(frozen=True, kw_only=True)
class Query:
    """A search. A row fits if it meets all conditions."""

    end: str = ""
    """One of `ENDS`; "" for all."""
    reason: str = ""
    """Reason of rejection, or error of a dead-letter row; "" for any."""
    caption: str = ""
    """Text in the caption, ignoring case."""
    read: str = ""
    """Text in one of the lines read in the image, ignoring case."""
    complexity: Bounds = Bounds()
    overlap: Bounds = Bounds()
    column: str = ""
    """A numeric column (see `numeric_columns`); "" for none."""
    values: Bounds = Bounds()
    """Bounds of the values in `column`."""
    order: str = ""
    """One of `Choices.orders`, highest number first; "" for the order of the plan."""
    ascending: bool = False
    """Whether the lowest number is first."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The names that queries of an output may use."""

    ends: dict[str, int | None]
    """Each end, with and without a reason as `end_of` joins them, with its number of rows by the
    unit records, or None if they do not tell."""
    all_errors: bool
    """Whether the errors of dead-letter rows are all in `ends`; those of whole files are not
    counted."""
    sure: bool
    """Whether the run has ended, so that the numbers are those of all units."""
    columns: list[str]
    """See `numeric_columns`."""
    orders: list[str]

    def rows(self, query: Query) -> int | None:
        """Return the number of rows of a query, or None if the unit records do not tell."""
        bounds = (query.complexity, query.overlap, query.column and query.values)
        if query.caption or query.read or any(bounds):
            return None
        return self.ends.get(end_of(query.end, query.reason))


class BadAddress(ValueError):
    """An address with invalid parameters; the message says what is wrong."""


@dataclass(frozen=True, order=True)
class Place:
    """The place of a row: its unit, its end, and its number in the file that this unit has for this
    end."""

    unit: str
    end: str
    row: int

    def __str__(self) -> str:
        return f"{self.unit}.{self.end}.{self.row}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a place, as `str` writes it. Raise BadAddress for other texts."""
        parts = text.split(".")
        if (
            len(parts) != 3
            or parts[1] not in ENDS
            or not parts[2].isdecimal()
            or len(parts[2]) > 12
            or not parts[0].isprintable()
        ):
            raise BadAddress(f"{text[:80]!r} is not the place of a row")
        return cls(parts[0], parts[1], int(parts[2]))


def check_parameters(given: Mapping[str, str], known: Collection[str]) -> None:
    """Raise BadAddress for a parameter that a page does not have, because its rows would look like
    the answer."""
    for name in given:
        if name not in known:
            remedy = (
                f"choose from {', '.join(sorted(known))}"
                if known
                else "this page has none, so leave it out"
            )
            raise BadAddress(f"no parameter {name[:40]!r}{nearest(name, known)}; {remedy}")


def count_of(output: Output) -> tuple[FunnelRecord, int | None]:
    """Return the sums of the unit records, and None if they are those of a run that has ended, or
    else the number of decided units that are counted."""
    if output.state().finished and (funnel := output.funnel()):
        return funnel, None
    units = output.listing().decided[:_UNITS_COUNTED]
    decisions = each(output.decide_record, units, output.layout.root)
    records = ((record["rows"], record) for record in decisions if record is not None)
    return count(records, output.preset, output.stages, cascade(output.preset)), len(units)


def choices_of(output: Output, counted: tuple[FunnelRecord, int | None]) -> Choices:
    """Return the names that queries may use. `counted` is what `count_of` returns."""
    counts, units = counted
    sure = units is None
    steps = [step.reason for step in cascade(output.preset) if not step.rare]
    rejected = dict.fromkeys([*reasons_of(counts), *steps], 0) | counts["rejected"]
    dead = counts["dead_letter"]
    all_errors = sure and not dead["units"]
    ends = {"": None, "kept": counts["kept"], "rejected": sum(rejected.values())}
    ends |= {end_of("rejected", reason): rows for reason, rows in rejected.items()}
    ends["dead_letter"] = dead["rows"] + dead["units"] if sure else None
    for error, rows in dead["by_error"].items():
        ends[end_of("dead_letter", error)] = rows if all_errors else None
    if output.listing().undecided:
        ends[UNDECIDED] = None
    columns = numeric_columns(output)
    captions = "captions" in output.stages
    annotations = {
        "complexity": captions,
        ACTION_SCORE: captions and not output.dataset.several_captions,
        "overlap": "spotting" in output.stages,
        "duplicate_similarity": "dedup" in output.stages,
    }
    orders = [name for name, known in annotations.items() if known] + columns
    return Choices(ends=ends, all_errors=all_errors, sure=sure, columns=columns, orders=orders)


def query_of(given: Mapping[str, str], choices: Choices) -> Query:
    """Parse the query in an address. Raise BadAddress if a number is invalid, or if there is no
    such parameter, end, reason, column or order."""
    check_parameters(given, _PARAMETERS)
    end, _, reason = given.get("end", "").partition(":")
    reasons = [one.partition(":")[2] for one in choices.ends if one.startswith(f"{end}:")]
    if reason and end == "dead_letter" and not choices.all_errors:
        reasons.append(reason)
    column = given.get("column", "")
    order = given.get("order", "")
    for name, value, names in (
        ("end", end, ENDS),
        (f"reason of {end}", reason, reasons),
        ("numeric column", column, choices.columns),
        ("order", order, choices.orders),
    ):
        if value and value not in names:
            raise BadAddress(
                f"no {name} {value[:40]!r}{nearest(value, names)}; choose one of"
                f" {', '.join(names) or 'none'}"
            )
    bounds = {
        name: Bounds(low=_number(given, f"{name}_low"), high=_number(given, f"{name}_high"))
        for name in BOUNDS
    }
    return Query(
        end=end,
        reason=reason,
        caption=given.get("caption", "")[:_LONGEST],
        read=given.get("read", "")[:_LONGEST],
        column=column,
        order=order,
        ascending=bool(order and given.get("ascending")),
        **bounds,
    )


def parameters_of(query: Query) -> dict[str, str]:
    """Return the parameters of a query's address, without those that have no value."""
    said = {name: getattr(query, name) for name in ("caption", "read", "column", "order")}
    said["ascending"] = "1" if query.ascending else ""
    said["end"] = end_of(query.end, query.reason)
    for name in BOUNDS:
        bounds: Bounds = getattr(query, name)
        said |= {f"{name}_low": bounds.low, f"{name}_high": bounds.high}
    words = {
        name: repr(value).removesuffix(".0") if isinstance(value, float) else value
        for name, value in said.items()
    }
    return {name: str(value) for name, value in words.items() if value not in ("", None)}


def address_of(query: Query, start: Place | None = None, skip: int = 0, page: str = "/rows") -> str:
    """Return the address of a page of rows that begins at a place, or at the first row. With an
    order it ranks the rows from there on, and begins after the first `skip`."""
    said = parameters_of(query)
    if start is not None:
        said["from"] = str(start)
    if skip:
        said["skip"] = str(skip)
    return f"{page}?{urlencode(said)}"


def end_of(end: str, reason: str) -> str:
    """Return an end and a reason as one parameter of an address."""
    return f"{end}:{reason}" if reason else end


def _number(given: Mapping[str, str], name: str) -> float | None:
    text = given.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadAddress(f"{name.replace('_', ' ')} is {text[:40]!r}, which is not a number")
    return value


@dataclass(frozen=True)
class Hit:
    """A row that fits a query."""

    place: Place
    row: Row


@dataclass(frozen=True)
class QueryResult:
    hits: tuple[Hit, ...]
    looked_at: int
    """Number of rows examined."""
    after: Place | None
    """Place where the search continues, which may be after the last row. None if all rows were
    examined."""
    seconds: float
    fit: int | None = None
    """Number of examined rows that fit, or None if the search has ended at a full page."""


@dataclass(frozen=True)
class _Piece:
    """Rows of a file that are examined together."""

    unit: str
    end: str
    first: int
    stop: int
    """Number of the first row, and of the row after the last."""
    file: pq.ParquetFile | None = None
    """None if no row can fit."""
    groups: Sequence[int] = ()
    begin: int = 0
    """Number of the first row of the row groups, which may be before `first`."""
    fits: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Numbers of the rows that fit."""


def search(
    output: Output,
    query: Query,
    start: Place | None = None,
    rows: int = PAGE_ROWS,
    seconds: float = SECONDS,
) -> QueryResult:
    """Return the next rows that fit, from the place that the previous page names, or from the first
    row. The search ends after about `seconds`, but examines at least one piece of a file."""
    began = time.monotonic()
    looked = 0
    hits: list[Hit] = []
    for piece in _pieces(output, query, start):
        for hit in _hits(piece, query):
            if len(hits) == rows:  # the next page begins with this hit
                looked += hit.place.row - piece.first
                return QueryResult(tuple(hits), looked, hit.place, time.monotonic() - began)
            hits.append(hit)
        looked += piece.stop - piece.first
        if time.monotonic() - began > seconds:
            after = Place(piece.unit, piece.end, piece.stop)
            return QueryResult(tuple(hits), looked, after, time.monotonic() - began)
    return QueryResult(tuple(hits), looked, None, time.monotonic() - began, len(hits))


def every(output: Output, query: Query) -> Iterator[Hit]:
    """Yield all rows that fit, in the order of the plan."""
    for piece in _pieces(output, query, None):
        yield from _hits(piece, query)


def uids(output: Output, query: Query, start: Place | None = None) -> Iterator[list[str]]:
    """Yield the uids of all rows that fit, in the order of the plan, as a list for each piece of a
    file. Dead letters of whole files have no uid."""
    # `_hits` would make a dict of each row, which takes most of the time of a large list.
    for piece in _pieces(output, query, start):
        if piece.file is not None and len(piece.fits):
            table = piece.file.read_row_groups(piece.groups, columns=["uid"])
            found = table["uid"].take(pa.array(piece.fits - piece.begin)).to_pylist()
            yield [uid for uid in found if uid]


def ranked(
    output: Output,
    query: Query,
    start: Place | None = None,
    skip: int = 0,
    rows: int = PAGE_ROWS,
    most: int | None = None,
    columns: Sequence[str] = SHOWN,
) -> QueryResult:
    """Return the rows that fit in the query's order, without the first `skip`. Rows without a
    number come last, and those with equal numbers in the order of the plan. The rows that are
    ranked begin at a place, or at the first row, and end with the piece in which `most` are
    reached, or with the last row. Hits have `columns`, if their file has them."""
    began = time.monotonic()
    looked = fit = 0
    after = None
    files: list[tuple[str, str]] = []
    scores = np.empty(0)
    best = np.empty(0)
    places = np.empty((0, 2), np.int64)  # index in `files`, row
    for piece in _pieces(output, query, start):
        looked += piece.stop - piece.first
        if len(piece.fits):
            fit += len(piece.fits)
            if files[-1:] != [(piece.unit, piece.end)]:
                files.append((piece.unit, piece.end))
                scores = np.empty(0)
            if piece.file and query.order in piece.file.schema_arrow.names:
                table = piece.file.read_row_groups(piece.groups, columns=[query.order])
                values = _numbers(table[query.order])[piece.fits - piece.begin]
            elif query.order == ACTION_SCORE and piece.end != "dead_letter":
                scores = scores if len(scores) else _action_scores(output, piece.unit, piece.end)
                values = scores[piece.fits]
            else:
                values = np.full(len(piece.fits), np.nan)
            best = np.concatenate([best, values])
            found = np.column_stack([np.full(len(values), len(files) - 1), piece.fits])
            places = np.concatenate([places, found])
            # NaN is last in both directions.
            first = np.argsort(best if query.ascending else -best, kind="stable")[: skip + rows]
            best, places = best[first], places[first]
        if most is not None and looked >= most:
            after = Place(piece.unit, piece.end, piece.stop)
            break
    by_file: dict[int, list[int]] = {}
    for number, row in places[skip:].tolist():
        by_file.setdefault(number, []).append(row)
    known: dict[tuple[int, int], Row] = {}
    for number, some in by_file.items():
        unit, end = files[number]
        with open_parts(output.part(end, unit)) as source:
            file = pq.ParquetFile(source)
            for row, content in rows_of(file, np.sort(some), _shown(file, query, columns)):
                known[number, row] = content
    if len(known) < len(places[skip:]):
        raise FileNotFoundError("a unit as it was")  # a run is deciding it again at this moment
    hits = []
    for (number, row), value in zip(places[skip:].tolist(), best[skip:].tolist(), strict=True):
        unit, end = files[number]
        content = {query.order: None if math.isnan(value) else value, **known[number, row]}
        hits.append(Hit(Place(unit, end, row), content))
    return QueryResult(tuple(hits), looked, after, time.monotonic() - began, fit)


def _action_scores(output: Output, unit: str, end: str) -> NDArray[np.float64]:
    """Return the `ACTION_SCORE` (n,) of the rows in a unit's file, NaN for a caption without
    candidates."""
    ordinals = [np.empty(0, np.int64)]
    scores = [np.empty(0)]
    paths = ["ordinal", "actions.list.element.score"]
    for table in row_groups(output.layout.data("captions", unit), paths):
        best = np.full(len(table), np.nan)
        if "actions" in table.column_names:
            lists = table["actions"].combine_chunks()
            values = np.asarray(pc.struct_field(pc.list_flatten(lists), "score"), np.float64)
            np.fmax.at(best, np.asarray(pc.list_parent_indices(lists)), values)
        ordinals.append(np.asarray(table["ordinal"]).astype(np.int64))
        scores.append(best.round(4))  # as single precision is stored
    places = np.searchsorted(np.concatenate(ordinals), output.ordinals(unit, end))
    return np.concatenate(scores)[places]


def added_columns(output: Output) -> frozenset[str]:
    """Return the columns that a run adds to those of the manifest, except the numbers of scores and
    user stages."""
    # Otherwise the manifest may have columns with these names.
    lists = SEVERAL if output.dataset.several_captions else ()
    return frozenset({*OURS, *lists, *COPIES.names, "stage", "reason"})


def numeric_columns(output: Output) -> list[str]:
    """Return those columns of the manifest, of scores and of user stages that hold numbers in the
    first rows of an output file. A string column, as from a TSV manifest, counts if all its texts
    there are numbers.
    """
    added = added_columns(output)
    for path in (
        output.part(end, unit)
        for unit in output.listing().decided[:_LOOK]
        for end in ("kept", "rejected")
    ):
        try:
            with open_parts(path) as source:
                file = pq.ParquetFile(source)
                groups = (
                    n for n in range(file.num_row_groups) if file.metadata.row_group(n).num_rows
                )
                if (
                    first := next(groups, None)
                ) is None:  # a group has no row where none of its batch was kept
                    continue
                names = [name for name in file.schema_arrow.names if name not in added]
                table = file.read_row_group(first, columns=names).slice(0, _PROBE)
        except FileNotFoundError:
            continue
        numbers = {name: int(np.isfinite(_numbers(table[name])).sum()) for name in names}
        known = {name: len(table) - table[name].null_count for name in names}
        return [
            name
            for name in names
            if _is_number(table[name].type)
            or (pa.types.is_string(table[name].type) and numbers[name] == known[name] > 0)
        ]
    return []


def random_place(output: Output) -> Place | None:
    """Return the first place of a random unit; there may be no row at it. Return None without
    units."""
    listing = output.listing()
    units = [*listing.decided, *listing.undecided]
    if not units:
        return None
    unit = random.choice(units)
    return Place(unit, KINDS[0] if unit in listing.decided else UNDECIDED, 0)


def row_at(output: Output, place: Place) -> Row | None:
    """Return all columns of the row at a place. Return None if the row does not exist (any
    more)."""
    try:
        with open_parts(output.part(place.end, place.unit)) as source:
            rows = rows_of(pq.ParquetFile(source), np.array([place.row]), None)
            return next((row for _, row in rows), None)
    except FileNotFoundError:
        return None


def _pieces(output: Output, query: Query, start: Place | None) -> Iterator[_Piece]:
    """Yield the pieces of files to examine. Each file is open until the next piece is asked for."""
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
                    yield _Piece(unit, end, first, rows)
                continue
            try:
                with open_parts(output.part(end, unit)) as source:
                    file = pq.ParquetFile(source)
                    for groups, group_first, stop in _together(file):
                        if stop > first:
                            fits = _fitting(query, file, groups, group_first, first)
                            since = max(first, group_first)
                            yield _Piece(unit, end, since, stop, file, groups, group_first, fits)
            except FileNotFoundError:
                # A run is deciding the unit again at this moment, or it has no such file.
                continue


def _passed_over(output: Output, query: Query, unit: str, end: str) -> int:
    """Return how many rows of an end need no search, since by the unit's record none has the
    query's reason."""
    # The record does not count the dead letter of the unit itself, so those files are always read.
    known = query.reason and end in ("kept", "rejected")
    record = output.decide_record(unit) if known else None
    if record is None:
        return 0
    counts = {"kept": {"": record["kept"]}, "rejected": record["rejected"]}[end]
    return 0 if counts.get(query.reason) else sum(counts.values())


def _together(file: pq.ParquetFile) -> Iterator[tuple[list[int], int, int]]:
    """Yield row groups that are read together, with the numbers of their first row and of the row
    after their last."""
    caption = [file.schema.column(number).path for number in range(len(file.schema))].index(
        "caption"
    )
    groups: list[int] = []
    begin = rows = size = 0
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        more = group.column(caption).total_uncompressed_size
        if groups and (rows + group.num_rows > _GROUP_ROWS or size + more > _GROUP_BYTES):
            yield groups, begin, begin + rows
            groups, begin, rows, size = [], begin + rows, 0, 0
        groups.append(number)
        rows, size = rows + group.num_rows, size + more
    if groups:
        yield groups, begin, begin + rows


def _fitting(
    query: Query, file: pq.ParquetFile, groups: list[int], begin: int, first: int
) -> NDArray[np.int64]:
    """Return the numbers of the rows that fit a query in row groups that begin with row `begin`,
    from row `first` on."""
    conditions = _conditions(query)
    if not {name for name, _ in conditions} <= {*file.schema_arrow.names}:
        return np.empty(0, np.int64)  # these rows lack a column of the query
    rows = sum(file.metadata.row_group(group).num_rows for group in groups)
    fits = np.arange(begin, begin + rows) >= first
    if conditions:
        table = file.read_row_groups(
            groups, columns=list(dict.fromkeys(name for name, _ in conditions))
        )
        for name, holds in conditions:
            fits &= holds(table[name])
    return np.flatnonzero(fits) + begin


def _hits(piece: _Piece, query: Query) -> Iterator[Hit]:
    """Yield the rows of a piece that fit."""
    if piece.file is not None:
        for row, content in rows_of(piece.file, piece.fits, _shown(piece.file, query)):
            yield Hit(Place(piece.unit, piece.end, row), content)


def _shown(file: pq.ParquetFile, query: Query, columns: Sequence[str] = SHOWN) -> list[str]:
    """Return those of the columns that a file has, and those of the query."""
    wanted = dict.fromkeys([*columns, query.order, query.column])
    return [name for name in wanted if name in file.schema_arrow.names]


def _conditions(query: Query) -> list[tuple[str, Callable[[pa.ChunkedArray], Bools]]]:
    """Return the columns in a query's conditions, each with a function from the column to the mask
    of fitting rows."""

    def equal(column: pa.ChunkedArray) -> Bools:
        return _bools(pc.equal(column, query.reason))

    def has_text(column: pa.ChunkedArray) -> Bools:
        return _bools(pc.match_substring(column, query.caption, ignore_case=True))

    def has_line(column: pa.ChunkedArray) -> Bools:
        lists = column.combine_chunks()
        texts = pc.struct_field(pc.list_flatten(lists), "text")
        hit = _bools(pc.match_substring(texts, query.read, ignore_case=True))
        return np.isin(np.arange(len(lists)), np.asarray(pc.list_parent_indices(lists))[hit])

    def within(bounds: Bounds) -> Callable[[pa.ChunkedArray], Bools]:
        return lambda column: bounds.holds(_numbers(column))

    numbers = {"complexity": query.complexity, "overlap": query.overlap, query.column: query.values}
    conditions = [
        (query.reason, "error" if query.end == "dead_letter" else "reason", equal),
        (query.caption, "caption", has_text),
        (query.read, "spotted", has_line),
        *((name and bounds, name, within(bounds)) for name, bounds in numbers.items()),
    ]
    return [(name, holds) for wanted, name, holds in conditions if wanted]


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return the numbers (n,) of a column as float64, NaN for what is no number, including texts
    such as `.5`."""
    if pa.types.is_string(column.type):
        column = pc.if_else(
            pc.match_substring_regex(column, _NUMBER), column, pa.scalar(None, pa.string())
        )
    elif not _is_number(column.type):
        return np.full(len(column), np.nan)
    return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _bools(column: Any) -> Bools:
    return np.asarray(pc.fill_null(column, False), bool)
