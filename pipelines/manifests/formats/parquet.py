"""Parquet: chunks bounded in rows and bytes, without image bytes unless they are requested."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import IO, Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests.arrow import bytes_of, column_of, plain
from open_diht.pipelines.manifests.files import guarded, open_file, reading
from open_diht.pipelines.manifests.formats.base import Format, hint, register_format
from open_diht.pipelines.manifests.formats.parquet_pages import ColumnCost, column_costs
from open_diht.pipelines.manifests.images import (
    ImageOrMissing,
    MissingImage,
    image_folders,
    read_image_file,
    within,
)
from open_diht.pipelines.manifests.schema import resolve_roles
from open_diht.pipelines.manifests.types import Chunk, Compression, FileInfo, Span, UnreadableFile

MAX_OPEN_BYTES = 512 * 2**20
"""Most bytes of the pages that are held at the same time (for each column one page and the
dictionary), and of a row. A row group that needs more is not read. Reading takes at most about
three times as much memory, whatever the file. Writing rows takes several times the largest row."""
_CHUNK_ROWS = 128
_IMAGE_ROWS = 16  # fewer, since each row may have an image of MAX_IMAGE_BYTES
_CHUNK_BYTES = 32 * 2**20
_STEP_BYTES = 64 * 2**20
"""Most bytes of the rows that pyarrow unpacks in one step, unless it is a single row."""
_BUFFER_BYTES = 2**20
_MAGIC = b"PAR1"
_ENCRYPTED_MAGIC = b"PARE"
_SIGNATURE_BYTES = 28
"""Length of the signature after a footer that is readable although columns are encrypted."""
_ENCRYPTED = (
    "the file is encrypted Parquet, which is not supported; write it again without encryption"
)


@register_format
class Parquet(Format):
    """Parquet files. Their page headers tell how much memory reading takes, before rows are
    unpacked."""

    name = "parquet"
    endings = (".parquet", ".pq")

    def starts(self, head: bytes) -> bool:
        return head.startswith((_MAGIC, _ENCRYPTED_MAGIC))

    def check(self, path: str, head: bytes, compression: Compression) -> None:
        if head.startswith(_ENCRYPTED_MAGIC):
            raise UnreadableFile(path, "Encrypted", _ENCRYPTED)
        if not head.startswith(_MAGIC):
            raise UnreadableFile(
                path,
                "NotParquet",
                f"a Parquet file starts with {_MAGIC!r}, this one with {head[:16]!r}{hint(head)}",
            )

    def look(self, path: str, size: int, compression: Compression, dataset: Dataset) -> FileInfo:
        with open_parquet(path) as opened, reading(path):
            metadata = opened.file.metadata
            groups = tuple(
                metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)
            )
            columns = tuple(column_of(field.name, field.type) for field in opened.file.schema_arrow)
        roles = resolve_roles(columns, dataset, path)
        return FileInfo(
            path=path,
            format=self.name,
            compression="",
            columns=columns,
            roles=roles,
            rows=sum(groups),
            bytes=size,
            row_groups=groups,
            row_bytes=size / sum(groups) if sum(groups) else 0.0,
            images=roles.image is not None or roles.image_path is not None,
        )

    def chunks(
        self, info: FileInfo, span: Span, dataset: Dataset, *, images: bool
    ) -> Iterator[Chunk]:
        image = info.roles.image
        names = [column.name for column in info.columns if column.name != image or images]
        with open_parquet(info.path) as opened:
            path_of_image = _image_path(opened.file, image)
            wanted = names if path_of_image is None or images else [*names, path_of_image]
            for row, table in parquet_tables(
                opened, info, span.start, span.stop, wanted, _CHUNK_ROWS
            ):
                stand_ins = None if path_of_image is None else _paths(table.column(image))
                first = row - span.start
                yield Chunk(
                    ordinals=list(range(first, first + table.num_rows)),
                    table=table.select(names).replace_schema_metadata(None),
                    bad=[],
                    stand_ins=stand_ins,
                )

    def whole(self, info: FileInfo) -> Span:
        rows = sum(info.row_groups)
        return Span(path=info.path, format=self.name, start=0, stop=rows, rows=rows, exact=True)

    def split(self, info: FileInfo, unit_rows: int) -> list[Span]:
        cuts = [0]
        for start, stop in pairwise(accumulate(info.row_groups, initial=0)):
            if stop - start > unit_rows:
                cuts += range(start, stop, unit_rows)
            elif stop - cuts[-1] > unit_rows:
                cuts.append(start)
            if stop - start > unit_rows:
                cuts.append(stop)
        cuts.append(sum(info.row_groups))
        edges = sorted(set(cuts))
        return [
            Span(
                path=info.path,
                format=self.name,
                start=start,
                stop=stop,
                rows=stop - start,
                exact=True,
            )
            for start, stop in pairwise(edges)
        ]

    def images(
        self, info: FileInfo, span: Span, dataset: Dataset, wanted: list[int], max_bytes: int
    ) -> Iterator[tuple[int, ImageOrMissing]]:
        folders = image_folders(info.path, dataset)
        columns = [name for name in (info.roles.image, info.roles.image_path) if name is not None]
        with open_parquet(info.path) as opened:
            for low, rows in _runs(wanted, info, span):
                start = span.start + low
                stop = span.start + rows[-1] + 1
                chosen = iter([*rows, -1])
                following = next(chosen)
                try:
                    for row, table in parquet_tables(
                        opened, info, start, stop, columns, _IMAGE_ROWS
                    ):
                        first = row - span.start
                        while first <= following < first + table.num_rows:
                            yield (
                                following,
                                _of_row(table, following - first, info, folders, max_bytes),
                            )
                            following = next(chosen)
                except UnreadableFile as error:  # concerns this row group; others may be intact
                    while following >= 0:
                        yield (
                            following,
                            MissingImage(reason="image_unreadable", message=error.message),
                        )
                        following = next(chosen)


@dataclass(frozen=True)
class OpenParquet:
    file: pq.ParquetFile
    handle: IO[bytes]
    """Handle of the file's bytes. `file` seeks before each read, so other code may read from it
    too."""


@contextmanager
def open_parquet(path: str) -> Iterator[OpenParquet]:
    """Open a Parquet file. Raises UnreadableFile if it cannot be opened, its footer is unreadable
    or columns are encrypted, and Unreachable if a store does not answer."""
    with reading(path):
        # Pages of all columns are read in turn, from distant offsets.
        handle = open_file(path, parts=True)
    with handle:
        with reading(path):
            # With a buffer and without pre-buffering, columns of a row group are streamed.
            # Otherwise pyarrow holds them whole (some sets have one group per file).
            file = pq.ParquetFile(
                handle, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
            # The file ends with the footer's length and the magic bytes.
            handle.seek(-8, os.SEEK_END)
            footer = int.from_bytes(handle.read(4), "little")
        # pyarrow does not expose that columns are encrypted, and crashes the process if one is
        # inspected.
        if footer == file.metadata.serialized_size + _SIGNATURE_BYTES:
            raise UnreadableFile(path, "Encrypted", _ENCRYPTED)
        yield OpenParquet(file, handle)


def parquet_tables(
    opened: OpenParquet,
    info: FileInfo,
    start: int,
    stop: int,
    columns: Sequence[str],
    chunk_rows: int,
) -> Iterator[tuple[int, pa.Table]]:
    """Yield rows `start` to `stop` of a file, as the index of the first row in the file and a
    table. A table has plain types (see arrow.py) and comes from one row group. It ends after
    _CHUNK_BYTES or `chunk_rows` rows, and has fewer than twice `chunk_rows` rows. Of a damaged row
    group, only the rows from the damaged unpacking step on are lost. UnreadableFile, for a row
    group that is damaged or needs too much memory, is raised after all readable rows.
    """
    broken: UnreadableFile | None = None
    first = 0
    for group, count in enumerate(info.row_groups):
        begin = max(start - first, 0)
        end = min(stop - first, count)
        if begin < end:
            row = first + begin
            try:
                for table in _chunked(
                    _of_group(opened, info.path, group, begin, end, columns, chunk_rows), chunk_rows
                ):
                    yield row, table
                    row += table.num_rows
            except UnreadableFile as error:
                broken = broken or UnreadableFile(info.path, error.error, _of(group, error.message))
        first += count
    if broken is not None:
        raise broken


def _of(group: int, message: str) -> str:
    """Return the message, prefixed with the row group if needed."""
    name = f"row group {group}"
    return message if message.startswith(name) else f"{name} is damaged: {message}"


def _of_group(
    opened: OpenParquet,
    path: str,
    group: int,
    begin: int,
    end: int,
    columns: Sequence[str],
    chunk_rows: int,
) -> Iterator[pa.Table]:
    """Yield the rows of a row group as they are unpacked."""
    file = opened.file
    with reading(path):
        costs = column_costs(opened.handle, file.metadata, group)
        # A nested column has several parts, such as `image.bytes`.
        parts = tuple(f"{column}." for column in columns)
        _check([cost for part, cost in costs.items() if f"{part}.".startswith(parts)], path, group)
        step = min(_step(costs.values()), chunk_rows)
        found = file.iter_batches(
            batch_size=step, row_groups=[group], columns=list(columns), use_threads=False
        )
    seen = 0
    for batch in guarded(path, found):
        low = max(begin - seen, 0)
        high = min(end - seen, batch.num_rows)
        seen += batch.num_rows
        if low < high:
            with reading(path):
                table = plain(pa.Table.from_batches([batch.slice(low, high - low)]))
            yield table
        if seen >= end:
            return


def _chunked(tables: Iterator[pa.Table], chunk_rows: int) -> Iterator[pa.Table]:
    """Yield concatenated tables. After an UnreadableFile, the rows before it are yielded first."""
    waiting: list[pa.Table] = []
    rows = size = 0
    broken: UnreadableFile | None = None
    try:
        for table in tables:
            waiting.append(table)
            rows, size = rows + table.num_rows, size + bytes_of(table)
            if rows >= chunk_rows or size >= _CHUNK_BYTES:
                yield pa.concat_tables(waiting)
                waiting = []
                rows = 0
                size = 0
    except UnreadableFile as error:
        broken = error
    if waiting:
        yield pa.concat_tables(waiting)
    if broken is not None:
        raise broken


def _step(costs: Collection[ColumnCost]) -> int:
    """Return how many rows to unpack at once. It depends on all columns of the file, even those not
    read, so that the rows before a broken page are the same with images and without."""
    rows = _CHUNK_ROWS
    while rows > 1 and sum(cost.of(rows) for cost in costs) > _STEP_BYTES:
        rows //= 2
    return rows


def _check(costs: Sequence[ColumnCost], path: str, group: int) -> None:
    held = sum(cost.pages for cost in costs)
    row = sum(cost.of(1) for cost in costs)
    if max(held, row) > MAX_OPEN_BYTES:
        raise UnreadableFile(
            path,
            "OversizedPages",
            f"row group {group} needs {held} bytes of unpacked pages at once and rows of up to"
            f" {row}, more than {MAX_OPEN_BYTES}; rewrite the file with smaller pages and row"
            " groups (pyarrow: write_table(..., row_group_size=100, data_page_size=2**20))",
        )


def _paths(images: pa.ChunkedArray) -> list[str | None]:
    """Return the paths in image structs. They only identify images, so invalid UTF-8 does no
    harm."""
    raw = images.combine_chunks().field("path").cast(pa.large_binary()).to_pylist()
    return [None if path is None else path.decode("utf-8", "surrogateescape") for path in raw]


def _image_path(file: pq.ParquetFile, image: str | None) -> str | None:
    """Return pyarrow's name for the path in an image struct, which identifies the image and is
    cheap to read."""
    if image is None:
        return None
    type = file.schema_arrow.field(image).type
    return (
        f"{image}.path" if pa.types.is_struct(type) and type.get_field_index("path") >= 0 else None
    )


def _runs(wanted: list[int], info: FileInfo, span: Span) -> Iterator[tuple[int, list[int]]]:
    """Yield the first ordinal and the wanted rows of each row group that has wanted rows. Other
    groups stay unread."""
    first = 0
    for count in info.row_groups:
        low = max(first - span.start, 0)
        high = min(first + count, span.stop) - span.start
        rows = [ordinal for ordinal in wanted if low <= ordinal < high]
        first += count
        if rows:
            yield low, rows


def _of_row(
    table: pa.Table, row: int, info: FileInfo, folders: Sequence[str], max_bytes: int
) -> ImageOrMissing:
    try:
        value: Any = (
            None if info.roles.image is None else table.column(info.roles.image)[row].as_py()
        )
        path = (
            None
            if info.roles.image_path is None
            else table.column(info.roles.image_path)[row].as_py()
        )
    except UnicodeDecodeError as error:
        return MissingImage(
            reason="image_unreadable", message=f"the path of the image is not UTF-8: {error}"
        )
    if isinstance(value, dict):
        # Hugging Face writes {bytes, path}: the bytes, or if they are null, the path of a file.
        path = value.get("path") if path is None else path
        value = value["bytes"]
    return (
        within(value, max_bytes) if value is not None else read_image_file(path, folders, max_bytes)
    )
