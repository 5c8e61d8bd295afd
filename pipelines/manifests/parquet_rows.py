"""Rows of Parquet files, bounded in rows and in bytes, and without the picture bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from pipelines.manifests.columns import bytes_of, plain
from pipelines.manifests.errors import UnreadableFile, guarded, reading
from pipelines.manifests.files import open_file
from pipelines.manifests.gathering import Chunk
from pipelines.manifests.info import FileInfo
from pipelines.manifests.parquet_pages import ColumnCost, column_costs
from pipelines.manifests.spans import Span

MAX_OPEN_BYTES = 512 * 2**20
"""Most bytes of the pages that are held at a time, one of every column and its dictionary, and most bytes of a row. A
row group that needs more is not read. Reading takes at most about three times as much memory, whatever the file;
writing rows out again takes several times the largest, which only a picture can make larger than MAX_CELL_BYTES."""
_CHUNK_ROWS = 128
_CHUNK_BYTES = 32 * 2**20
_STEP_BYTES = 64 * 2**20
"""Rows that pyarrow unpacks in one step have at most so many bytes, or are one."""
_BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class OpenParquet:
    """A Parquet file under way."""

    file: pq.ParquetFile
    handle: IO[bytes]
    """Of its bytes; `file` seeks before it reads, so others may read as well."""


@contextmanager
def open_parquet(path: str) -> Iterator[OpenParquet]:
    """Opens a Parquet file. Raises UnreadableFile where its footer cannot be read."""
    with reading(path):
        handle = open_file(path, parts=True)  # of every column a page at a time, from places far apart
    with handle:
        with reading(path):
            # With a buffer, and none filled before, a column of a row group is streamed; else pyarrow holds it whole
            # (some sets have one group a file).
            file = pq.ParquetFile(handle, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
        yield OpenParquet(file, handle)


def parquet_chunks(info: FileInfo, span: Span, *, pictures: bool) -> Iterator[Chunk]:
    """Yields the rows of a span; with the bytes of the pictures only where `pictures`."""
    image = info.roles.image
    names = [column.name for column in info.columns if column.name != image or pictures]
    ordinal = 0
    with open_parquet(info.path) as opened:
        path_of_picture = _picture_path(opened.file, image)
        wanted = names if path_of_picture is None or pictures else [*names, path_of_picture]
        for table in parquet_tables(opened, info, span.start, span.stop, wanted, _CHUNK_ROWS):
            stand_ins = None if path_of_picture is None else _paths(table.column(image))
            count = table.num_rows
            yield Chunk(
                ordinals=list(range(ordinal, ordinal + count)),
                table=table.select(names).replace_schema_metadata(None),
                bad=[],
                stand_ins=stand_ins,
            )
            ordinal += count


def parquet_tables(
    opened: OpenParquet, info: FileInfo, start: int, stop: int, columns: Sequence[str], chunk_rows: int
) -> Iterator[pa.Table]:
    """Yields rows `start` to `stop` of a file, at most `chunk_rows` and about _CHUNK_BYTES at a time, each table from
    one row group. Types are plain (see columns.py)."""
    first = 0
    for group, count in enumerate(info.row_groups):
        begin, end = max(start - first, 0), min(stop - first, count)
        first += count
        if begin < end:
            yield from _chunked(_of_group(opened, info.path, group, begin, end, columns, chunk_rows), chunk_rows)


def _of_group(
    opened: OpenParquet, path: str, group: int, begin: int, end: int, columns: Sequence[str], chunk_rows: int
) -> Iterator[pa.Table]:
    """Yields rows of a row group as they are unpacked."""
    file = opened.file
    with reading(path):
        costs = column_costs(opened.handle, file.metadata, group)
        _check([cost for part, cost in costs.items() if _is_of(part, columns)], path, group)
        step = min(_step(costs.values()), chunk_rows)
        found = file.iter_batches(batch_size=step, row_groups=[group], columns=list(columns), use_threads=False)
    seen = 0
    for batch in guarded(path, found):
        low, high = max(begin - seen, 0), min(end - seen, batch.num_rows)
        seen += batch.num_rows
        if low < high:
            with reading(path):
                table = plain(pa.Table.from_batches([batch.slice(low, high - low)]))
            yield table
        if seen >= end:
            return


def _chunked(tables: Iterator[pa.Table], chunk_rows: int) -> Iterator[pa.Table]:
    """Yields tables put together; where they break off, the rows before first."""
    waiting: list[pa.Table] = []
    rows = size = 0
    broken: UnreadableFile | None = None
    while broken is None:
        try:
            table = next(tables, None)
        except UnreadableFile as error:
            broken, table = error, None
        if table is not None:
            waiting.append(table)
            rows, size = rows + table.num_rows, size + bytes_of(table)
        if waiting and (table is None or rows >= chunk_rows or size >= _CHUNK_BYTES):
            yield pa.concat_tables(waiting)
            waiting, rows, size = [], 0, 0
        if table is None:
            break
    if broken is not None:
        raise broken


def _is_of(part: str, columns: Sequence[str]) -> bool:
    return any(part == column or part.startswith(f"{column}.") for column in columns)


def _step(costs: Collection[ColumnCost]) -> int:
    """Returns how many rows are unpacked at a time. It rests on all columns of the file, those that are not read
    included, so that where a page is broken, the rows before it are the same with pictures and without."""
    rows = _CHUNK_ROWS
    while rows > 1 and sum(cost.of(rows) for cost in costs) > _STEP_BYTES:
        rows //= 2
    return rows


def _check(costs: Sequence[ColumnCost], path: str, group: int) -> None:
    held, row = sum(cost.pages for cost in costs), sum(cost.of(1) for cost in costs)
    if max(held, row) > MAX_OPEN_BYTES:
        raise UnreadableFile(
            path,
            "OversizedPages",
            f"row group {group} has pages of {held} bytes that are unpacked at a time, and rows of up to {row}, more "
            f"than {MAX_OPEN_BYTES}; write the file anew with smaller pages and row groups (pyarrow: "
            "write_table(..., row_group_size=100, data_page_size=2**20))",
        )


def _paths(pictures: pa.ChunkedArray) -> list[str | None]:
    """Returns the paths of picture structs. They only tell pictures apart, so bytes that are no UTF-8 do no harm."""
    raw = pictures.combine_chunks().field("path").cast(pa.large_binary()).to_pylist()
    return [None if path is None else path.decode("utf-8", "surrogateescape") for path in raw]


def _picture_path(file: pq.ParquetFile, image: str | None) -> str | None:
    """Returns the path part of a picture struct, as pyarrow names it; it costs little and tells pictures apart."""
    if image is None:
        return None
    type = file.schema_arrow.field(image).type
    return f"{image}.path" if pa.types.is_struct(type) and type.get_field_index("path") >= 0 else None
