"""Pictures of chosen rows, from wherever the manifest has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from common.image_formats import EXTENSIONS
from pipelines.datasets import Dataset
from pipelines.manifests.assembly import batches
from pipelines.manifests.info import FileInfo
from pipelines.manifests.parquet_rows import open_parquet, parquet_tables
from pipelines.manifests.picture_files import (
    MAX_PICTURE_BYTES,
    MissingPicture,
    pictures_root,
    read_picture_file,
    too_large,
    within,
)
from pipelines.manifests.reading import chunks, info_and_span, watched
from pipelines.manifests.spans import Span
from pipelines.manifests.tar_rows import samples

__all__ = ["MAX_PICTURE_BYTES", "MissingPicture", "has_pictures", "read_pictures"]

Picture = bytes | MissingPicture
_CHUNK_ROWS = 16
_BATCH_ROWS = 1000


def has_pictures(info: FileInfo, dataset: Dataset) -> bool:
    """Says whether pictures of the file's rows can be asked for: bytes, paths of files, or members of the tar.

    Single rows may still lack theirs. A column of urls does not count: pictures are never fetched from the web here.
    The data set adds nothing to what `inspect` saw; it is accepted so that all functions can be called alike.
    """
    return info.pictures


def read_pictures(
    info_or_span: FileInfo | Span,
    dataset: Dataset,
    ordinals: npt.NDArray[np.int64] | Sequence[int],
    *,
    max_bytes: int = MAX_PICTURE_BYTES,
) -> Iterator[tuple[int, Picture]]:
    """Yields the pictures of chosen rows, in order: (ordinal, bytes as stored, not decoded), or why there are none.

    Args:
        info_or_span: the file or span that the ordinals count in.
        dataset: how rows are read; `pictures_root` says where picture files are.
        ordinals: places of the rows inside the span, strictly ascending.
        max_bytes: most bytes of a picture.

    Raises:
        ValueError: ordinals are not ascending from 0, or lie beyond the end of the span.
        UnreadableFile: the manifest or tar breaks; the pictures before were yielded.
        FileChanged: a span's file is not what it was; what was yielded must not be used.
    """
    wanted = [int(ordinal) for ordinal in ordinals]
    if any(after <= before for before, after in zip([-1, *wanted], wanted, strict=False)):
        raise ValueError("ordinals must be strictly ascending, from 0")
    if not wanted:
        return
    with watched(info_or_span):
        yield from _pictures(*info_and_span(info_or_span, dataset), dataset, wanted, max_bytes)


def _pictures(
    info: FileInfo, span: Span, dataset: Dataset, wanted: list[int], max_bytes: int
) -> Iterator[tuple[int, Picture]]:
    if not info.pictures:
        message = (
            "the manifest has only urls; download the pictures first"
            if info.roles.url
            else "the manifest names no pictures"
        )
        found: Iterator[tuple[int, Picture]] = (
            (ordinal, MissingPicture(reason="picture_not_at_hand", message=message)) for ordinal in wanted
        )
    elif info.format == "parquet":
        found = _from_parquet(info, span, dataset, wanted, max_bytes)
    elif info.format == "webdataset" and info.roles.image_path is None:
        found = _from_tar(info, span, wanted, max_bytes)
    else:
        found = _from_paths(info, span, dataset, wanted, max_bytes)
    count = 0
    for ordinal, picture in found:
        yield ordinal, picture
        count += 1
    if count < len(wanted):
        raise ValueError(f"row {wanted[count]} is beyond the end of the span {span.start}-{span.stop} of {info.path}")


def _from_parquet(
    info: FileInfo, span: Span, dataset: Dataset, wanted: list[int], max_bytes: int
) -> Iterator[tuple[int, Picture]]:
    root = pictures_root(info.path, dataset)
    columns = [name for name in (info.roles.image, info.roles.image_path) if name is not None]
    with open_parquet(info.path) as opened:
        for low, rows in _runs(wanted, info, span):
            tables = parquet_tables(opened, info, span.start + low, span.start + rows[-1] + 1, columns, _CHUNK_ROWS)
            ordinal, chosen = low, iter([*rows, -1])
            following = next(chosen)
            for table in tables:
                while ordinal <= following < ordinal + table.num_rows:
                    yield following, _of_row(table, following - ordinal, info, root, max_bytes)
                    following = next(chosen)
                ordinal += table.num_rows


def _runs(wanted: list[int], info: FileInfo, span: Span) -> Iterator[tuple[int, list[int]]]:
    """Yields the first ordinal and the chosen ones of every row group that has any; others stay unread."""
    first = 0
    for count in info.row_groups:
        low, high = max(first - span.start, 0), min(first + count, span.stop) - span.start
        rows = [ordinal for ordinal in wanted if low <= ordinal < high]
        first += count
        if rows:
            yield low, rows


def _of_row(table: pa.Table, row: int, info: FileInfo, root: str, max_bytes: int) -> Picture:
    try:
        value: Any = None if info.roles.image is None else table.column(info.roles.image)[row].as_py()
        path = None if info.roles.image_path is None else table.column(info.roles.image_path)[row].as_py()
    except UnicodeDecodeError as error:
        return MissingPicture(reason="picture_unreadable", message=f"the path of the picture is no UTF-8: {error}")
    if isinstance(value, dict):
        # Hugging Face writes {bytes, path}: the bytes, or where they are null the path of a file.
        path = value.get("path") if path is None else path
        value = value["bytes"]
    return within(value, max_bytes) if value is not None else read_picture_file(path, root, max_bytes)


def _from_paths(
    info: FileInfo, span: Span, dataset: Dataset, wanted: list[int], max_bytes: int
) -> Iterator[tuple[int, Picture]]:
    root = pictures_root(info.path, dataset)
    rest = set(wanted)
    with closing(batches(chunks(info, span, dataset), info.roles, _BATCH_ROWS)) as found:
        for batch in found:
            paths = batch.table.column(info.roles.image_path).to_pylist()
            here: dict[int, MissingPicture | str | None] = dict(zip(batch.ordinals.tolist(), paths, strict=True))
            here |= {
                row.ordinal: MissingPicture(reason="picture_not_at_hand", message=f"the row is broken: {row.message}")
                for row in batch.bad
            }
            for ordinal in sorted(rest & here.keys()):
                given = here[ordinal]
                picture = given if isinstance(given, MissingPicture) else read_picture_file(given, root, max_bytes)
                yield ordinal, picture
            rest -= here.keys()
            if not rest:
                return


def _from_tar(info: FileInfo, span: Span, wanted: list[int], max_bytes: int) -> Iterator[tuple[int, Picture]]:
    rest = set(wanted)

    def limit_of(place: int, extension: str) -> int:
        return max_bytes + 1 if place in rest and extension in EXTENSIONS else 0

    stop = None if info.compression else span.stop
    found = samples(info.path, info.compression, start=span.start, stop=stop, size=info.bytes, limit_of=limit_of)
    with closing(found):
        for place, sample in enumerate(found):
            if place not in rest:
                continue
            rest.discard(place)
            extension = sample.picture()
            if extension is None:
                yield (
                    place,
                    MissingPicture(reason="picture_missing", message=f"sample '{sample.key}' has no picture member"),
                )
            elif sample.sizes[extension] > max_bytes:
                yield place, too_large(f"'{sample.key}.{extension}'", sample.sizes[extension], max_bytes)
            else:
                yield place, sample.contents[extension]
            if not rest:
                return
