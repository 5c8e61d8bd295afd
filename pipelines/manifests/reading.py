"""Rows of a manifest, whatever its format."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext

from pipelines.datasets import Dataset
from pipelines.manifests.assembly import batches
from pipelines.manifests.batch import Batch
from pipelines.manifests.gathering import Chunk
from pipelines.manifests.info import FileInfo
from pipelines.manifests.inspection import look
from pipelines.manifests.json_rows import json_chunks
from pipelines.manifests.parquet_rows import parquet_chunks
from pipelines.manifests.spans import Span
from pipelines.manifests.tar_rows import tar_chunks
from pipelines.manifests.text_rows import text_chunks
from pipelines.manifests.watching import unchanged


def read(
    info_or_span: FileInfo | Span, dataset: Dataset, batch_rows: int = 1000, *, pictures: bool = False
) -> Generator[Batch, None, None]:
    """Yields the rows of a file or span in batches. Every row is in exactly one, as good or bad, in the order of the
    file.

    Memory is bounded by `batch_rows`, and a batch of large rows is cut short; no file or row group is held whole.

    Args:
        info_or_span: a file (all its rows, as one span) or a span, whose file is then looked at again.
        dataset: how rows are read; the one that `inspect` was given.
        batch_rows: most rows of a batch, good and bad together, at least 1.
        pictures: whether `Batch.table` has the column of picture bytes (role image); it is not even read otherwise.
            Pictures of tars are never in the table: see `read_pictures`.

    Raises:
        ValueError: `batch_rows` is below 1.
        UnreadableFile: the file breaks; the rows before the break were yielded.
        BadSchema: a span's file does not have the columns (any more).
        FileChanged: a span's file is not what it was; what was yielded must not be used.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows is {batch_rows}; a batch has at least 1 row")
    with watched(info_or_span):
        info, span = info_and_span(info_or_span, dataset)
        yield from batches(chunks(info, span, dataset, pictures=pictures), info.roles, batch_rows)


def watched(info_or_span: FileInfo | Span) -> AbstractContextManager[None]:
    """Watches the file of a span, see `unchanged`; a whole file, which its caller has just seen, is not watched."""
    return unchanged(info_or_span) if isinstance(info_or_span, Span) else nullcontext()


def whole_file(info: FileInfo) -> Span:
    """Returns the span of all rows of a file."""
    stop = sum(info.row_groups) if info.format == "parquet" else info.bytes
    return Span(
        path=info.path, format=info.format, start=0, stop=stop, rows=info.estimated_rows, exact=info.rows is not None
    )


def info_and_span(info_or_span: FileInfo | Span, dataset: Dataset) -> tuple[FileInfo, Span]:
    """Returns the file of a span, looked at again, and the span; or a file and the span of all its rows."""
    if isinstance(info_or_span, Span):
        return look(info_or_span.path, dataset), info_or_span
    return info_or_span, whole_file(info_or_span)


def chunks(info: FileInfo, span: Span, dataset: Dataset, *, pictures: bool = False) -> Iterator[Chunk]:
    """Yields the rows of a span as its format's reader gathers them."""
    match info.format:
        case "parquet":
            return parquet_chunks(info, span, pictures=pictures)
        case "jsonl":
            return json_chunks(info, span)
        case "webdataset":
            return tar_chunks(info, span)
        case _:
            return text_chunks(info, span, dataset)
