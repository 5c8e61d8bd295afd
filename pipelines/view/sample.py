"""Rows whose annotations are held in memory, to be decided again and again: all of an output, or a random sample.

A sample is drawn in pieces, since annotations lie in files: a random row of all stands for the row group that it lies
in, of which as many random rows are taken as of every other. So each row is as likely as the next.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.base import Bools
from open_diht.pipelines.stages.cascade import KEPT, UNREAD, Reasons
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.stages.rows import RECORD
from open_diht.pipelines.store.storage import each
from open_diht.pipelines.view.output import Output
from open_diht.pipelines.view.places import reasons_of

ROWS = 20_000
"""Rows that are held at most."""
PIECES = 40
"""Pieces of a sample."""
SECONDS = 20.0
"""A sample is what was read by then, at least one piece."""


@dataclass(frozen=True)
class Piece:
    """Annotated rows of a unit."""

    unit: str
    rows: pa.Table
    records: pa.Table | None
    """Of their images, `UNREAD` where there is none; None where images decide nothing."""
    unlooked: Bools
    """Of each row whether no run has looked at its image, though images decide."""
    recorded: Reasons
    """Why the run rejected them; `KEPT` for all others and for rows that are not decided."""

    def __len__(self) -> int:
        return self.rows.num_rows


@dataclass(frozen=True)
class Sample:
    """What is decided on."""

    pieces: tuple[Piece, ...]
    all_rows: int
    """Rows of the units that are annotated, those that could not be read among them."""
    whole: bool
    """Whether it is all of them."""
    seed: int

    @property
    def rows(self) -> int:
        """How many it has."""
        return sum(map(len, self.pieces))


def draw(output: Output, rows: int = ROWS, seed: int = 0, seconds: float = SECONDS) -> Sample:
    """All rows of the units that are annotated where they are at most `rows`, else about `rows` of them."""
    listing = output.listing()
    units = [unit for unit in (*listing.decided, *listing.undecided) if unit in output.plan]
    sizes = list(each(partial(_size, output), units, output.layout.root))
    decided, total = frozenset(listing.decided), sum(sizes)
    if total <= rows:
        asked = ((unit, None) for unit in sorted(units, key=output.order))
        pieces = _read(output, asked, decided, None)
        return Sample(tuple(pieces), total, True, seed)
    began, found = time.monotonic(), []
    for piece in _read(output, _drawn(units, sizes, seed), decided, (rows // PIECES, seed)):
        found.append(piece)
        if time.monotonic() - began > seconds:
            break
    return Sample(tuple(found), total, False, seed)


def _size(output: Output, unit: str) -> int:
    """The rows of a unit, those that could not be read among them."""
    span = output.plan.span(unit)
    record = None if span.exact else output.captions_record(unit)
    return record["rows"] if record else span.rows


def _drawn(units: Sequence[str], sizes: Sequence[int], seed: int) -> Iterator[tuple[str, int | None]]:
    """Random rows of all, as units and places in them."""
    dice, ends = random.Random(seed), list(accumulate(sizes))
    for _ in range(PIECES):
        place = dice.randrange(ends[-1])
        number = int(np.searchsorted(ends, place, side="right"))
        yield units[number], place - (ends[number] - sizes[number])


def _read(
    output: Output, asked: Iterator[tuple[str, int | None]], decided: frozenset[str], some: tuple[int, int] | None
) -> Iterator[Piece]:
    """The rows of whole units, or of the row groups with certain rows; of these `some`, so many with a seed."""
    for number, (unit, place) in enumerate(asked):
        between = None if place is None else ("ordinal", place, place + 1)
        try:
            tables = list(annotated_rows(output.layout, unit, output.preset, between=between))
            rows = pa.concat_tables(tables)
            if some is not None and rows.num_rows > some[0]:
                dice = np.random.default_rng((some[1], number))
                rows = rows.take(pa.array(np.sort(dice.choice(rows.num_rows, some[0], replace=False))))
            if rows.num_rows:
                yield _piece(output, unit, rows, unit in decided)
        except FileNotFoundError:  # it is being done anew at this moment
            continue


def _piece(output: Output, unit: str, rows: pa.Table, decided: bool) -> Piece:
    ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
    numbers = np.unique(ordinals // output.plan.image_rows).tolist()
    records = image_records(output.layout, unit, numbers, output.stages)
    if records is None and {"download", "spotting"} & {*output.stages}:
        records = RECORD.empty_table()
    recorded = reasons_of(output, unit, ordinals) if decided else np.full(len(ordinals), KEPT, object)
    if records is None:
        return Piece(unit, rows, None, np.zeros(len(ordinals), bool), recorded)
    unlooked = ~np.isin(ordinals, np.asarray(records["ordinal"]))
    return Piece(unit, rows, _with_unread(records, ordinals), unlooked, recorded)


def _with_unread(records: pa.Table, ordinals: NDArray[np.int64]) -> pa.Table:
    """The records of these rows; `UNREAD` where there is none."""
    known = np.asarray(records["ordinal"]).astype(np.int64)
    missing = np.setdiff1d(ordinals, known)
    columns = {field.name: pa.nulls(len(missing), field.type) for field in RECORD}
    columns |= {"ordinal": pa.array(missing, pa.int64()), "status": pa.array([UNREAD] * len(missing), pa.string())}
    mine = records.filter(pa.array(np.isin(known, ordinals))).select(RECORD.names).cast(RECORD)
    return pa.concat_tables([mine, pa.table(columns, schema=RECORD)]).sort_by("ordinal")
