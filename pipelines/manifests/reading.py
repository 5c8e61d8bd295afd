"""Rows of a manifest, whatever its format."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import cast, overload

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


@overload
def read(
    what: FileInfo | Span, dataset: Dataset, /, *, batch_rows: int = 1000, pictures: bool = False
) -> Generator[Batch, None, None]: ...


@overload
def read(
    what: FileInfo | Span, dataset: Dataset, batch_rows: int, /, *, pictures: bool = False
) -> Generator[Batch, None, None]: ...


@overload
def read(
    what: Span, info: FileInfo, dataset: Dataset, batch_rows: int = 1000, *, pictures: bool = False
) -> Generator[Batch, None, None]: ...


def read(
    what: FileInfo | Span,
    info: FileInfo | Dataset | None = None,
    dataset: Dataset | int | None = None,
    batch_rows: int = 1000,
    *,
    pictures: bool = False,
) -> Generator[Batch, None, None]:
    """Yields the rows of a file or span in batches. Every row is in exactly one, as good or bad, in the order of the
    file.

    Memory is bounded by `batch_rows`, and a batch of large rows is cut short; no file or row group is held whole.

    Args:
        what: a file (all its rows, as one span) or one of its spans.
        info: the span's file, from `inspect`. May be left out, in any position: then the file is looked at again.
        dataset: how rows are read; the one that `inspect` was given.
        batch_rows: most rows of a batch, good and bad together, at least 1.
        pictures: whether `Batch.table` has the column of picture bytes (role image); it is not even read otherwise.
            Pictures of tars are never in the table: see `read_pictures`.

    Raises:
        ValueError: `batch_rows` is below 1, or the span is of another file.
        UnreadableFile: the file breaks; the rows before the break were yielded.
        BadSchema: a span's file does not have the columns (any more).
    """
    if isinstance(info, Dataset):
        # The short form: read(what, dataset, batch_rows).
        if dataset is not None:
            batch_rows = cast(int, dataset)
        info, dataset = None, info
    if batch_rows < 1:
        raise ValueError(f"batch_rows is {batch_rows}; a batch has at least 1 row")
    settings = cast(Dataset, dataset)
    file, span = file_and_span(what, settings, info)
    yield from batches(_chunks(file, span, settings, pictures), file.roles, batch_rows)


def whole_file(info: FileInfo) -> Span:
    """Returns the span of all rows of a file."""
    stop = sum(info.row_groups) if info.format == "parquet" else info.bytes
    return Span(
        path=info.path, format=info.format, start=0, stop=stop, rows=info.estimated_rows, exact=info.rows is not None
    )


def file_and_span(what: FileInfo | Span, dataset: Dataset, info: FileInfo | None = None) -> tuple[FileInfo, Span]:
    """Returns the file of a span (`info`, else looked at again) and the span; or a file and the span of all its rows.

    Raises:
        ValueError: the span is of another file than `info`.
    """
    if isinstance(what, Span):
        if info is not None and info.path != what.path:
            raise ValueError(f"the span is of {what.path}, the info of {info.path}; give the info of the span's file")
        return look(what.path, dataset) if info is None else info, what
    return what, whole_file(what)


def _chunks(info: FileInfo, span: Span, dataset: Dataset, pictures: bool) -> Iterator[Chunk]:
    match info.format:
        case "parquet":
            return parquet_chunks(info, span, pictures=pictures)
        case "jsonl":
            return json_chunks(info, span)
        case "webdataset":
            return tar_chunks(info, span)
        case _:
            return text_chunks(info, span, dataset)
