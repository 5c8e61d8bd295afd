"""Read manifest files of any format: inspect them, split them into spans, read rows and images."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from open_diht.common.naming import counted
from open_diht.common.spelling import spelled_option
from open_diht.pipelines.datasets import Dataset, Roles
from open_diht.pipelines.manifests.arrow import column_of, plain
from open_diht.pipelines.manifests.batches import batches, to_batch
from open_diht.pipelines.manifests.files import (
    file_size,
    fingerprint,
    reading,
    stamp,
    telling,
    unchanged,
)
from open_diht.pipelines.manifests.formats import detect, format_named, versions
from open_diht.pipelines.manifests.images import (
    MAX_IMAGE_BYTES,
    ImageOrMissing,
    MissingImage,
    folder_of_all,
    image_folders,
    inside,
    is_file_path,
)
from open_diht.pipelines.manifests.schema import resolve_roles
from open_diht.pipelines.manifests.types import (
    Batch,
    Chunk,
    FileInfo,
    NoInput,
    Span,
    UnreadableFile,
)
from open_diht.pipelines.store.records import fingerprint_of

# one batch: whether paths lie outside of the folders shows in the first rows or not at all
_CHECKED_ROWS = 1000
VERSION = 2
"""Increase the version when inspecting a file of any format gives another result; see
`Format.version`."""


def inspect(path: str, dataset: Dataset, known: FileInfo | None = None) -> FileInfo:
    """Inspect a manifest file: format, columns, roles, rows if cheap, fingerprint. An earlier
    result, `known`, is returned without another inspection if it still holds.

    Raises:
        UnreadableFile: the file cannot be opened, or is empty, damaged, or not what its name says.
            Other files are not affected.
        BadSchema: a needed column is missing, ambiguous or of the wrong type, columns are repeated
            or too many, or the format is unknown or not that of the first rows.
        Unreachable: a store does not answer.
    """
    with reading(path):
        before = stamp(path)  # taken before the inspection, so that a change during it is noticed
    read_as = _read_as(dataset, versions())
    if (
        known is not None
        and before is not None
        and (known.stamp, known.read_as) == (before, read_as)
    ):
        return known
    info = _look(path, dataset)
    return replace(
        info, fingerprint=fingerprint(path, info.bytes), stamp=telling(before), read_as=read_as
    )


def info_of(span: Span, dataset: Dataset) -> FileInfo:
    """Return the stored inspection of a span's file, or inspect the file."""
    known = span.info is not None and span.info.read_as == _read_as(dataset, versions())
    return span.info if known and span.info is not None else _look(span.path, dataset)


def split(info: FileInfo, unit_rows: int) -> list[Span]:
    """Return the spans of a file, in order; they tile it without gap or overlap. A file that is
    known to have no rows has no spans. The result is a pure function of the file and `unit_rows`,
    since a rerun must find the same units.

    A Parquet file is cut into whole row groups while they fit into `unit_rows`; a larger row group
    is cut inside. Uncompressed TSV, JSON lines and CSV without quotes are cut into byte ranges of
    about `unit_rows` rows. An uncompressed tar that seems to have more than `unit_rows` samples is
    cut into ranges of that many (the last may have fewer), found in one pass over its headers; a
    smaller tar is one span. Compressed files and CSV with quotes are one span too, because row
    boundaries cannot be located in them. The content of CSV files and large tars is read.
    """
    if unit_rows < 1:
        raise ValueError(f"unit_rows is {unit_rows}; a unit has at least 1 row")
    return [] if info.rows == 0 else format_named(info.format).split(info, unit_rows)


def whole_file(info: FileInfo) -> Span:
    """Return the span of all rows of a file."""
    return format_named(info.format).whole(info)


def read(
    info_or_span: FileInfo | Span, dataset: Dataset, batch_rows: int = 1000, *, images: bool = False
) -> Generator[Batch, None, None]:
    """Yield the rows of a file or span in batches. Every row is in exactly one batch, good or bad,
    in file order.

    A batch has at most `batch_rows` rows, good and bad together, and fewer if they are large, so
    that memory is bounded. With `images`, the column of image bytes (role image) is in
    `Batch.table`; images of tars never are, see `read_images`.

    Raises:
        UnreadableFile: the file cannot be opened, or is damaged; the rows before the damage (of a
            tar except the last), and those of intact row groups, are yielded first.
        Unreachable: a store does not answer.
        BadSchema: a span's file does not have the columns (any more).
        FileChanged: a span's file has changed or is gone; the yielded rows must not be used.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows is {batch_rows}; a batch has at least 1 row")
    with _watched(info_or_span, dataset) as (info, span):
        chunks = format_named(info.format).chunks(info, span, dataset, images=images)
        yield from batches(chunks, info.roles, batch_rows)


def read_rows(table: pa.Table, dataset: Dataset) -> Batch:
    """Read a table as `read` reads a file: its rows, good and bad, with the same captions and uids.
    Raises BadSchema. The paths in structs of images do not enter uids here; in a Parquet file they
    may if a row has no URL.
    """
    roles = roles_of(table, dataset)
    return to_batch(Chunk(ordinals=list(range(table.num_rows)), table=plain(table), bad=[]), roles)


def roles_of(table: pa.Table, dataset: Dataset) -> Roles:
    """Return the column of every role of a table, as for a file with its columns. Raises BadSchema
    like `read_rows`."""
    return resolve_roles(
        [column_of(field.name, field.type) for field in table.schema], dataset, "the batch"
    )


def read_images(
    info_or_span: FileInfo | Span,
    dataset: Dataset,
    ordinals: npt.NDArray[np.int64] | Sequence[int],
    *,
    max_bytes: int = MAX_IMAGE_BYTES,
) -> Iterator[tuple[int, ImageOrMissing]]:
    """Yield the images of chosen rows, in order: the ordinal, and the bytes as stored or the reason
    why there are none. `ordinals` are indices of rows inside the span, strictly ascending; others
    raise ValueError. UnreadableFile and FileChanged are raised as by `read`. In a damaged row group
    of Parquet, however, the wanted rows from the damage on yield a `MissingImage`. If a store does
    not answer, Unreachable or the error of its client is raised.
    """
    wanted = [int(ordinal) for ordinal in ordinals]
    if any(after <= before for before, after in zip([-1, *wanted], wanted, strict=False)):
        raise ValueError("ordinals must be strictly ascending, from 0")
    if not wanted:
        return
    with _watched(info_or_span, dataset) as (info, span):
        if not info.images:
            why = (
                "has only urls; download the images first" if info.roles.url else "names no images"
            )
            missing = MissingImage(reason="image_not_available", message=f"the manifest {why}")
            yield from ((ordinal, missing) for ordinal in wanted)
            return
        count = 0
        for ordinal, image in format_named(info.format).images(
            info, span, dataset, wanted, max_bytes
        ):
            yield ordinal, image
            count += 1
        if count < len(wanted):
            where = f"the span {span.start}-{span.stop} of {info.path}"
            raise ValueError(f"row {wanted[count]} is beyond the end of {where}")


def check_image_paths(infos: Sequence[FileInfo], dataset: Dataset) -> None:
    """Raise NoInput if the first rows of a manifest have web addresses instead of image paths, or
    if they have image paths, and none lies in a folder that may be read. Only the first manifest
    that has a column of paths and no column of image bytes is checked."""
    info = next(
        (info for info in infos if info.roles.image_path is not None and info.roles.image is None),
        None,
    )
    if info is None:
        return
    with closing(read(info, dataset, _CHECKED_ROWS)) as found:
        try:
            batch = next(found, None)
        except UnreadableFile:  # the run reports it
            return
    column = info.roles.image_path
    rows = [] if batch is None else batch.table.column(column).to_pylist()
    paths = [path for path in rows if is_file_path(path)]
    if not paths and (urls := [url for url in rows if url and url.strip()]):
        raise NoInput(
            f"column '{column}' of {info.path} holds URLs, such as {urls[0]!r}, instead of paths of"
            f" image files; name it as such: {spelled_option('url-column', column)}"
        )
    folders = image_folders(info.path, dataset)
    if not paths or any(inside(path, folders) is not None for path in paths):
        return
    root = folder_of_all(paths, folders)
    first = "" if batch is None or batch.rows < _CHECKED_ROWS else "first "
    raise NoInput(
        f"{len(paths):,} of the {first}{counted(len(paths), 'image path')} lie outside"
        f" {' and '.join(folders)}, such as {paths[0]!r}. Pass"
        f" {spelled_option('images-root', root)}, or / for every folder"
    )


@contextmanager
def _watched(info_or_span: FileInfo | Span, dataset: Dataset) -> Iterator[tuple[FileInfo, Span]]:
    """Yield a file's inspection and a span of it. A `FileInfo` is used as it is. The file of a span
    is checked for changes (see `unchanged`), and inspected again if its stored inspection no longer
    holds."""
    if isinstance(info_or_span, FileInfo):
        yield info_or_span, whole_file(info_or_span)
        return
    with unchanged(info_or_span) as known:
        yield (
            (info_of(info_or_span, dataset) if known else _look(info_or_span.path, dataset)),
            info_or_span,
        )


def _look(path: str, dataset: Dataset) -> FileInfo:
    size = file_size(path)
    format, compression = detect(path, dataset)
    return format.look(path, size, compression, dataset)


@lru_cache(maxsize=16)
def _read_as(dataset: Dataset, formats: tuple[tuple[str, int], ...]) -> str:
    """Return the fingerprint of everything that an inspection depends on, except for the file."""
    return fingerprint_of(VERSION, formats, asdict(dataset))
