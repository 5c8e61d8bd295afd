"""Rows of Parquet files, a few hundred at a time and without the picture bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from pipelines.manifests.errors import guarded, reading
from pipelines.manifests.files import open_file
from pipelines.manifests.gathering import Chunk
from pipelines.manifests.info import FileInfo
from pipelines.manifests.spans import Span

# Fixed, so that where a file breaks, the rows before the break are the same for every batch size, with pictures or
# without.
_CHUNK_ROWS = 128
_BUFFER_BYTES = 2**20


@contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file. Raises UnreadableFile where its footer cannot be read."""
    with reading(path):
        handle = open_file(path, parts=True)  # of every column a page at a time, from places far apart
    with handle:
        with reading(path):
            # With a buffer, a column of a row group is streamed; without, pyarrow holds it whole (some sets have one
            # group a file).
            file = pq.ParquetFile(handle, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
        yield file


def parquet_chunks(info: FileInfo, span: Span, *, pictures: bool) -> Iterator[Chunk]:
    """Yields the rows of a span; with the bytes of the pictures only where `pictures`."""
    image = info.roles.image
    names = [column.name for column in info.columns if column.name != image or pictures]
    ordinal = 0
    with open_parquet(info.path) as file:
        path_of_picture = _picture_path(file, image)
        wanted = names if path_of_picture is None or pictures else [*names, path_of_picture]
        for table in parquet_tables(file, info, span.start, span.stop, wanted, _CHUNK_ROWS):
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
    file: pq.ParquetFile, info: FileInfo, start: int, stop: int, columns: Sequence[str], chunk_rows: int
) -> Iterator[pa.Table]:
    """Yields rows `start` to `stop` of a file, `chunk_rows` at a time, each table from one row group."""
    first = 0
    for group, count in enumerate(info.row_groups):
        begin, end = max(start - first, 0), min(stop - first, count)
        first += count
        if begin < end:
            yield from _of_group(file, info.path, group, begin, end, columns, chunk_rows)


def _of_group(
    file: pq.ParquetFile, path: str, group: int, begin: int, end: int, columns: Sequence[str], chunk_rows: int
) -> Iterator[pa.Table]:
    with reading(path):
        found = file.iter_batches(batch_size=chunk_rows, row_groups=[group], columns=list(columns), use_threads=False)
    seen = 0
    for batch in guarded(path, found):
        low, high = max(begin - seen, 0), min(end - seen, batch.num_rows)
        seen += batch.num_rows
        if low < high:
            yield pa.Table.from_batches([batch.slice(low, high - low)])
        if seen >= end:
            return


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
