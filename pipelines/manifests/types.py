"""What a manifest file is, what reading it yields, and what goes wrong with it. Plain data: it can be pickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from open_diht.pipelines.datasets import Roles

Compression = Literal["", "gzip", "zstd", "bz2"]
Kind = Literal["text", "texts", "bytes", "image", "integer", "floating", "boolean", "null", "other"]
Stamp = tuple[int, tuple[str, ...]]
"""Bytes of a file, and what changes when it is written to."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a manifest."""

    name: str
    """Its name as the file spells it; "" is possible."""
    type: str
    """Its Arrow type in words, for example "large_string"."""
    kind: Kind
    """The family of its type: files whose types differ within a family go together."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """A manifest file as `inspect` sees it: what one look at it tells."""

    path: str
    """Local path or fsspec URL."""
    format: str
    """Name of the format in which its rows are written."""
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
    fingerprint: str = ""
    """Changes with the file: its size and the SHA-256 of its first and last 64 KiB. `inspect` adds it."""
    stamp: Stamp | None = field(default=None, compare=False)
    """Of the file when `inspect` looked: as long as it stays, all of this holds, and nobody has to look again."""
    read_as: str = field(default="", compare=False)
    """Of all else that this depends on: how the data set is read, and the code that looked."""
    row_groups: tuple[int, ...] = ()
    """Parquet: rows of every row group."""
    data_start: int = 0
    """Text: offset of the first byte after the header, in the uncompressed stream."""
    row_bytes: float = 0.0
    """Mean bytes of a row in the file's beginning, uncompressed; 0 where nothing was seen. Estimates rest on it."""
    images: bool = False
    """Whether the rows come with images: a bytes column, a column of paths, or image members of a tar."""

    @property
    def estimated_rows(self) -> int:
        """Rows, exact where known, else from the size and the mean of the beginning (compressed: a lower bound)."""
        if self.rows is not None:
            return self.rows
        return round(max(self.bytes - self.data_start, 0) / self.row_bytes) if self.row_bytes else 0

    def column(self, name: str) -> Column:
        """Return the column of that name. Raises KeyError where there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of a manifest file: the unit of work."""

    path: str
    """The file."""
    format: str
    """How its rows are written; also what `start` and `stop` count."""
    start: int
    """Where the piece begins. Parquet: a row. Other formats: a byte; the span has the rows that begin in it."""
    stop: int
    """Where it ends, exclusive. The spans of a file lead from 0 to its rows (Parquet) or bytes (others)."""
    rows: int
    """Rows in it, good and bad."""
    exact: bool
    """Whether `rows` is exact, or an estimate."""
    fingerprint: str = ""
    """Of the file that it was cut from; reading it fails where the file is another one by then. "": nobody looks."""
    info: FileInfo | None = field(default=None, compare=False, repr=False)
    """What `inspect` told of that file; None: it is looked at again wherever that is needed."""


BadReason = Literal[
    "field_count",
    "invalid_utf8",
    "nul_byte",
    "oversized",
    "quoting",
    "invalid_json",
    "not_an_object",
    "not_text",
    "lone_surrogate",
    "no_caption",
    "missing_member",
    "duplicate_member",
]
"""Why a row is bad; a closed list, fit for counters.

field_count: not as many fields as columns. invalid_utf8: bytes that are no UTF-8. nul_byte: a NUL in a line of text.
oversized: longer than MAX_ROW_BYTES, or a cell than MAX_CELL_BYTES. quoting: a CSV quote is out of place or never
closed. invalid_json, not_an_object: JSON lines and the .json of tar samples. not_text: a number or object where a
caption, url or path belongs. lone_surrogate: JSON escapes that are half a character. no_caption: a tar sample with
neither .txt nor .json. missing_member: a tar sample without the .json or .txt that the other samples have.
duplicate_member: two members of one tar sample with the same name.
"""

MAX_ROW_BYTES = 16 * 2**20
"""A longer line, CSV record or tar text is a bad row."""
MAX_CELL_BYTES = 64 * 2**20
"""A row of Parquet with more bytes in a binary column, the image's excepted, is a bad row."""
MAX_RAW_BYTES = 64 * 2**10
"""As much of a bad row is kept for the dead letter."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be read. It costs itself and nothing else."""

    ordinal: int
    """Its place inside the span, from 0, good and bad rows counted."""
    error: BadReason
    """Why, as a code."""
    message: str
    """Why, for people."""
    raw: bytes
    """The row as far as readable, at most MAX_RAW_BYTES: the line, or JSON made from the cells of a Parquet row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Consecutive rows of a span. Every row of the span is in exactly one batch, as good or bad, in order."""

    ordinals: npt.NDArray[np.int64]
    """Places of the good rows inside the span, ascending; shape (n,)."""
    table: pa.Table
    """The good rows with all original columns and their types; n rows. Image bytes only where they were asked for."""
    captions: list[str | None]
    """Captions of the good rows as the file has them; None where null, blank, "nan", "none" or "null";
    length n."""
    urls: list[str | None]
    """Urls of the good rows; None where null or blank, or where the file has none; length n."""
    uids: list[str]
    """Identities of the good rows, 32 lower-case hex digits; length n (see `make_uid`)."""
    own_uids: list[bool]
    """Whether a uid is the manifest's own, which may give one to several rows; length n."""
    pairs: list[str | None]
    """What is equal for equal pairs, 32 lower-case hex digits: made of url and caption, or of what else names the
    image and caption; None where nothing does; length n (see `make_uid`)."""
    bad: list[BadRow]
    """The bad rows, ascending by ordinal."""

    @property
    def rows(self) -> int:
        """Number of rows, good and bad."""
        return len(self.ordinals) + len(self.bad)


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
    """What tells images apart that have no url, where it is in no column (see `make_uid`)."""


class ManifestError(Exception):
    """Anything wrong with a manifest; see the subclasses for who can mend it."""


class NoInput(ManifestError):
    """A pattern matches nothing, or matches the same rows twice. The user's to mend, before anything is written."""


class BadSchema(ManifestError):
    """A file is readable, but its columns are not the ones that were asked for. The user's to mend."""


class Broken(TypedDict):
    """Why a file could not be read, or not to its end, as plans and commit records say it."""

    path: str
    error: str
    message: str


def in_words(broken: Broken) -> str:
    """The file, and what is wrong with it."""
    return f"{broken['path']}: {broken['message']}"


class UnreadableFile(ManifestError):
    """A file, or the rest of one, cannot be read. It goes to the dead letter; other files are not concerned."""

    def __init__(self, path: str, error: str, message: str) -> None:
        # All arguments go to the base class, so that the exception survives pickling between processes.
        super().__init__(path, error, message)
        self.path = path
        """The file."""
        self.error = error
        """Class of the error, a short name."""
        self.message = message
        """What happened, where in the file, and what helps."""

    @property
    def record(self) -> Broken:
        """The same, to be written down."""
        return {"path": self.path, "error": self.error, "message": self.message}

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.error}: {self.message}"


class Unreachable(ManifestError):
    """A store or a hub does not answer, or refuses for now. No fault of the file: who tries again may have it."""


class FileChanged(ManifestError):
    """A file is not what it was when its spans were cut. What was read of it must not be used."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)  # all arguments, so that the exception survives pickling
        self.path = path
        """The file."""
        self.what = what
        """How it differs."""

    def __str__(self) -> str:
        return f"{self.path} {self.what}"
