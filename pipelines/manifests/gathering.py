"""Numbers the rows of a span and gathers them into chunks: what all row-wise formats share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from pipelines.manifests.batch import MAX_RAW_BYTES, BadReason, BadRow
from pipelines.manifests.columns import Column
from pipelines.manifests.errors import UnreadableFile
from pipelines.manifests.json_cells import table_of

_CHUNK_ROWS = 1024
_CHUNK_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive rows of a span as a format's reader delivers them."""

    ordinals: list[int]
    """Places of the rows of `table` inside the span."""
    table: pa.Table
    """Rows that the format found nothing wrong with."""
    bad: list[BadRow]
    """Rows that it did."""
    captions: list[str | None] | None = None
    """Captions as the file has them, where the reader knows them better than the table does (lists in JSON)."""
    stand_ins: list[str | None] | None = None
    """What tells pictures apart that have no url, where it is in no column (see uids.py)."""


@dataclass(frozen=True, slots=True)
class Good:
    """A row that was read. Not keyword-only, since millions are made."""

    cells: Sequence[Any]
    """One a column."""
    size: int
    """About its bytes in memory."""
    caption: str | None = None
    """Its caption, where the cells do not have it plainly."""
    stand_in: str | None = None
    """See Chunk.stand_ins."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that could not be read."""

    error: BadReason
    message: str
    raw: bytes


def gather(
    rows: Iterator[Good | Fault], columns: Sequence[Column], *, captions: bool = False, stand_ins: bool = False
) -> Iterator[Chunk]:
    """Yields the rows of a span, numbered from 0, in chunks that are bounded in rows and bytes.

    Args:
        rows: the rows of the span, in order. Where they break off, the rows before are yielded and then the break is
            raised.
        columns: the columns of `Good.cells`.
        captions: whether `Good.caption` counts.
        stand_ins: whether `Good.stand_in` counts.
    """
    ordinal, broken = 0, None
    while broken is None:
        good: list[Good] = []
        ordinals: list[int] = []
        bad: list[BadRow] = []
        size = 0
        while len(good) + len(bad) < _CHUNK_ROWS and size < _CHUNK_BYTES:
            try:
                row = next(rows, None)
            except UnreadableFile as error:
                broken = error
                break
            if row is None:
                break
            if isinstance(row, Good):
                good.append(row)
                ordinals.append(ordinal)
                size += row.size
            else:
                raw = row.raw[:MAX_RAW_BYTES]
                bad.append(BadRow(ordinal=ordinal, error=row.error, message=row.message, raw=raw))
                size += len(raw)
            ordinal += 1
        if not good and not bad:
            break
        yield Chunk(
            ordinals=ordinals,
            table=table_of([row.cells for row in good], columns),
            bad=bad,
            captions=[row.caption for row in good] if captions else None,
            stand_ins=[row.stand_in for row in good] if stand_ins else None,
        )
    if broken is not None:
        raise broken
