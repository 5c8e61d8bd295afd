"""Annotated rows in memory, to be decided with different thresholds: all rows of an output, or a random sample.

Annotations are stored in files, so a sample is drawn in pieces. Each piece is the row group of a
randomly drawn row, and the same number of random rows is taken from every such row group that has
as many. So rows of these row groups have about the same chance.
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
from open_diht.filters.cascade import KEPT, RECORD, UNREAD, Reasons, cascade
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.store.storage import each
from open_diht.pipelines.view.options import ROWS
from open_diht.pipelines.view.output import Output
from open_diht.pipelines.view.places import reasons_of

PIECES = 40
"""Maximum number of pieces of a sample: each costs the read of a row group, and fewer would widen the interval, since
rows of a piece are alike."""
_BUILT_IN = {"captions", "download", "spotting", "score", "dedup", "export"}
SECONDS = 20.0
"""Seconds after which no more pieces of a sample are read, about as long as people wait for a page."""


@dataclass(frozen=True)
class Piece:
    """Annotated rows of a unit."""

    unit: str
    rows: pa.Table
    records: pa.Table | None
    """Records of their images, with `UNREAD` for missing ones; None if images decide nothing."""
    unexamined: Bools
    """Mask of the rows that a stage after the captions has not examined although it decides: of the image of some, no
    run has read the text; for others the run has computed no score, or a stage of the user has seen nothing."""
    recorded: Reasons
    """Reasons why the run rejected rows; `KEPT` for all others and for undecided rows."""

    def __len__(self) -> int:
        return self.rows.num_rows


@dataclass(frozen=True)
class Sample:
    """The rows to decide."""

    pieces: tuple[Piece, ...]
    all_rows: int
    """Rows of the annotated units, including those that could not be read; of units without a count, the plan's
    estimate."""
    whole: bool
    """Whether the sample holds all rows of these units that could be read, but for units without their files."""
    seed: int

    @property
    def rows(self) -> int:
        """Number of rows in the sample."""
        return sum(map(len, self.pieces))


def draw(output: Output, rows: int = ROWS, seed: int = 0, seconds: float = SECONDS) -> Sample:
    """Return the readable rows of the annotated units: all if the units have at most `rows`, else a sample of at most
    `rows`, of which no more pieces are read after `seconds`."""
    listing = output.listing()
    units = [unit for unit in (*listing.decided, *listing.undecided) if unit in output.plan]
    sizes = list(each(partial(_size, output), units, output.layout.root))
    decided, total = frozenset(listing.decided), sum(sizes)
    if total <= rows:
        asked = ((unit, None) for unit in sorted(units, key=output.order))
        pieces = _read(output, asked, decided, None)
        return Sample(tuple(pieces), total, True, seed)
    began, found = time.monotonic(), []
    count = min(PIECES, rows)
    for piece in _read(output, _drawn(units, sizes, seed, count), decided, (rows // count, seed)):
        found.append(piece)
        if time.monotonic() - began > seconds:
            break
    return Sample(tuple(found), total, False, seed)


def _size(output: Output, unit: str) -> int:
    """Return the number of rows of a unit as `Sample.all_rows` counts them."""
    span = output.plan.span(unit)
    record = None if span.exact else output.captions_record(unit)  # counted rows in place of an estimate
    return record["rows"] if record else span.rows


def _drawn(units: Sequence[str], sizes: Sequence[int], seed: int, count: int) -> Iterator[tuple[str, int | None]]:
    """Yield `count` random rows of all units, as (unit, place in the unit)."""
    dice, ends = random.Random(seed), list(accumulate(sizes))
    for _ in range(count):
        place = dice.randrange(ends[-1])
        number = int(np.searchsorted(ends, place, side="right"))
        yield units[number], place - (ends[number] - sizes[number])


def _read(
    output: Output, asked: Iterator[tuple[str, int | None]], decided: frozenset[str], some: tuple[int, int] | None
) -> Iterator[Piece]:
    """Yield the rows of whole units, or of the row groups that contain the given rows. `some` is
    (most rows to draw from each row group, seed)."""
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
        except FileNotFoundError:  # the unit is being redone at this moment, or a file is missing
            continue


def _piece(output: Output, unit: str, rows: pa.Table, decided: bool) -> Piece:
    ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
    numbers = np.unique(ordinals // output.plan.image_rows).tolist()
    records = image_records(output.layout, unit, numbers, output.stages)
    # A decided unit without records of downloads has its images in the manifest.
    if records is None and ("spotting" in output.stages or ("download" in output.stages and not decided)):
        records = RECORD.empty_table()
    recorded = reasons_of(output, unit, ordinals) if decided else np.full(len(ordinals), KEPT, object)
    unexamined = np.zeros(len(ordinals), bool)
    if records is not None:
        unexamined = ~np.isin(ordinals, np.asarray(records["ordinal"]))
        records = _with_unread(records, ordinals)
    if output.preset.score.thresholds or set(output.stages) - _BUILT_IN:
        # Scores and the user's stages saw the rows that the filters before them kept.
        before = [step.reason for step in cascade(output.preset) if step.stage not in ("score", "dedup")]
        unexamined |= np.isin(recorded.astype(str), before) if decided else True
    return Piece(unit, rows, records, unexamined, recorded)


def _with_unread(records: pa.Table, ordinals: NDArray[np.int64]) -> pa.Table:
    """Return the records of these rows, with `UNREAD` for missing ones."""
    known = np.asarray(records["ordinal"]).astype(np.int64)
    missing = np.setdiff1d(ordinals, known)
    columns = {field.name: pa.nulls(len(missing), field.type) for field in RECORD}
    columns |= {"ordinal": pa.array(missing, pa.int64()), "status": pa.array([UNREAD] * len(missing), pa.string())}
    mine = records.filter(pa.array(np.isin(known, ordinals))).select(RECORD.names).cast(RECORD)
    return pa.concat_tables([mine, pa.table(columns, schema=RECORD)]).sort_by("ordinal")
