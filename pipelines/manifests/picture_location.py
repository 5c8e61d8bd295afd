"""Where the picture of one row lies on this machine, for reports."""

from __future__ import annotations

from contextlib import closing

from pipelines.datasets import Dataset
from pipelines.manifests.info import FileInfo
from pipelines.manifests.parquet_rows import open_parquet, parquet_tables
from pipelines.manifests.picture_files import local_picture, pictures_root
from pipelines.manifests.reading import read
from pipelines.manifests.spans import Span


def picture_location(span: Span, info: FileInfo, dataset: Dataset, ordinal: int) -> str | None:
    """Returns the path of a row's picture file where it lies on this machine.

    None where the picture is a column's bytes, a tar's member or on the web, and where the row is bad, the file does
    not exist or the path leaves the pictures' folder (see `read_picture_file`). Parquet: one column of one row group is
    read; other formats: the rows of the span up to this one.

    Raises:
        ValueError: `ordinal` is negative, or the span is of another file.
        UnreadableFile: the manifest breaks before the row.
    """
    if ordinal < 0:
        raise ValueError(f"ordinal is {ordinal}; rows of a span count from 0")
    if span.path != info.path:
        raise ValueError(f"the span is of {span.path}, the info of {info.path}; give the info of the span's file")
    if info.roles.image_path is None:
        return None
    return local_picture(_path(span, info, dataset, ordinal), pictures_root(info.path, dataset))


def _path(span: Span, info: FileInfo, dataset: Dataset, ordinal: int) -> str | None:
    column = str(info.roles.image_path)
    if info.format == "parquet":
        row = span.start + ordinal
        if row >= span.stop:
            return None
        with open_parquet(info.path) as file:
            table = next(parquet_tables(file, info, row, row + 1, [column], 1024))
        try:
            value: str | None = table.column(column)[0].as_py()
        except UnicodeDecodeError:
            return None
        return value
    with closing(read(span, info, dataset)) as found:
        for batch in found:
            place = int(batch.ordinals.searchsorted(ordinal))
            if place < len(batch.ordinals) and batch.ordinals[place] == ordinal:
                value = batch.table.column(column)[place].as_py()
                return value
            if any(row.ordinal == ordinal for row in batch.bad):
                return None
    return None
