"""What one look at a manifest file tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.datasets import Roles
from pipelines.manifests.columns import Column

FileFormat = Literal["parquet", "tsv", "csv", "jsonl", "webdataset"]
Compression = Literal["", "gzip", "zstd", "bz2"]


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """A manifest file as `inspect` sees it. Plain data: it can be pickled and compared."""

    path: str
    """Local path or fsspec URL."""
    format: FileFormat
    """How its rows are written."""
    compression: Compression
    """What it is compressed with as a whole; "" for plain files (Parquet compresses inside and is plain here)."""
    columns: tuple[Column, ...]
    """Its columns in order. JSON lines: those of the first 1,000 rows; tars: those of the first 100 samples."""
    roles: Roles
    """The column of every role, None where the file has none."""
    rows: int | None
    """Rows, good and bad; None where only reading the whole file would tell."""
    bytes: int
    """Size of the file."""
    fingerprint: str
    """Changes with the file: its size and the SHA-256 of its first and last 64 KiB."""
    row_groups: tuple[int, ...] = ()
    """Parquet: rows of every row group."""
    data_start: int = 0
    """Text: offset of the first byte after the header, in the uncompressed stream."""
    row_bytes: float = 0.0
    """Mean bytes of a row in the file's beginning, uncompressed; 0 where nothing was seen. Estimates rest on it."""
    pictures: bool = False
    """Whether the rows come with pictures: a bytes column, a column of paths, or picture members of a tar."""

    @property
    def estimated_rows(self) -> int:
        """Rows, exact where known, else from the size and the mean of the beginning (compressed: a lower bound)."""
        if self.rows is not None:
            return self.rows
        return round(max(self.bytes - self.data_start, 0) / self.row_bytes) if self.row_bytes else 0

    def column(self, name: str) -> Column:
        """Returns the column of that name. Raises KeyError where there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)
