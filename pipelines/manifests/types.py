"""Types of manifest files, of the rows read from them, and of errors. All can be pickled."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from open_diht.pipelines.datasets import Roles
from open_diht.pipelines.store.records import Broken

Compression = Literal["", "gzip", "zstd", "bz2"]
Kind = Literal["text", "texts", "bytes", "image", "integer", "floating", "boolean", "null", "other"]
Stamp = tuple[int, tuple[str, ...]]
"""Size of a file in bytes, and values that change when the file is written to; some stores report
only the size."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a manifest."""

    name: str
    """Name as spelled in the file, or in the data set for a file without header; may be ""."""
    type: str
    """Arrow type in words, for example "large_string"."""
    kind: Kind
    """Family of the type. Files may differ in types of the same family."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """A manifest file as `inspect` found it."""

    path: str
    """Local path or fsspec URL."""
    format: str
    """Name of the file's format."""
    compression: Compression
    """Compression of the file as a whole; "" for none. Parquet compresses internally, which does
    not count."""
    columns: tuple[Column, ...]
    """Columns in order. JSON lines: of the first 1,000 rows at most; tars: of about the first 100
    samples."""
    roles: Roles
    """The column of every role. Roles without one have None, or () for `captions`."""
    rows: int | None
    """Number of rows, good and bad, or None if only reading the whole file would tell."""
    bytes: int
    """Size of the file in bytes."""
    fingerprint: str = ""
    """Size, and hash of the first and last 64 KiB. Set by `inspect`."""
    stamp: Stamp | None = field(default=None, compare=False)
    """Stamp of the file at inspection. While it and `read_as` stay the same, this information holds
    without another inspection. It is None if the stamp would hold only the size."""
    read_as: str = field(default="", compare=False)
    """Fingerprint of the other things that this information depends on: how the data set is read,
    and the code's versions."""
    row_groups: tuple[int, ...] = ()
    """Parquet: number of rows of every row group."""
    data_start: int = 0
    """Text: offset of the first byte after the header, in the uncompressed stream."""
    row_bytes: float = 0.0
    """Mean uncompressed bytes of a row at the file's beginning, or 0 if no row was seen. For
    Parquet and for a tar of one sample it is the stored bytes of the file per row."""
    images: bool = False
    """Whether the rows have images: a column of bytes or paths, or image members of a tar."""

    @property
    def estimated_rows(self) -> int:
        """Return the number of rows. If unknown, estimate it from the size (usually too low if
        compressed)."""
        if self.rows is not None:
            return self.rows
        return round(max(self.bytes - self.data_start, 0) / self.row_bytes) if self.row_bytes else 0

    def column(self, name: str) -> Column:
        """Return the column of that name. Raise KeyError without one."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of a manifest file: the unit of work."""

    path: str
    """The file."""
    format: str
    """Format of the file. It determines what `start` and `stop` count."""
    start: int
    """Start of the span. Parquet: a row. Other formats: a byte; the span has the rows that begin in
    it."""
    stop: int
    """End of the span, exclusive. A file's spans cover it from 0 to its rows (Parquet) or bytes
    (others)."""
    rows: int
    """Number of rows in it, good and bad, exact or estimated."""
    exact: bool
    """Whether `rows` is exact rather than an estimate."""
    fingerprint: str = ""
    """Fingerprint of the file when the span was cut. It must be the same when the span is read. "":
    not checked."""
    info: FileInfo | None = field(default=None, compare=False, repr=False)
    """Result of `inspect` for the file. Without it, the file is inspected again when needed."""


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
"""Why a row is bad; a closed list, suitable for counters.

field_count: not as many fields as columns. invalid_utf8: bytes that are not valid UTF-8. nul_byte:
a NUL in a line of text. oversized: above MAX_ROW_BYTES, MAX_CELL_BYTES or MAX_CAPTIONS. quoting: a
misplaced or unclosed CSV quote, or a CR outside quotes before the end of the line. invalid_json,
not_an_object: JSON lines and the .json of tar samples. not_text: another JSON value in place of a
caption, URL or path. lone_surrogate: JSON escapes that are half a character. no_caption: a tar
sample with neither .txt nor .json. missing_member: a tar sample without the caption, a .txt or a
field txt, that some of the first samples have. duplicate_member: two members of one tar sample with
the same name, case aside.
"""

MAX_ROW_BYTES = 16 * 2**20
"""Longest line, CSV record, tar text or text cell in bytes; a longer one makes its row bad."""
MAX_CELL_BYTES = 64 * 2**20
"""Largest binary cell in bytes, except images and texts; a larger one makes its row bad."""
MAX_CAPTIONS = 1_000
"""Most captions of a row (in Parquet, of a row in one column), if all are read. A row with more is
bad."""
MAX_RAW_BYTES = 64 * 2**10
"""Most bytes of a bad row that are kept for the dead-letter table."""


def too_many(captions: int) -> str:
    """Return the message about a row with more than MAX_CAPTIONS captions."""
    return (
        f"the row has {captions:,} captions, more than {MAX_CAPTIONS:,}; split it into rows of the"
        " same image"
    )


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be read. Other rows are not affected."""

    ordinal: int
    """Index inside the span, from 0, among all its rows."""
    error: BadReason
    """The reason as a code."""
    message: str
    """The reason in words."""
    raw: bytes
    """The row as far as readable, at most MAX_RAW_BYTES: the line or CSV record, a sample's .json,
    .txt or key, or a row of a table as JSON."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Consecutive rows of a span. Every row of an undamaged span is in exactly one batch, as good
    or bad, in order."""

    ordinals: npt.NDArray[np.int64]
    """Indices of the good rows inside the span, ascending; shape (n,)."""
    table: pa.Table
    """The good rows with all original columns and types (see `arrow.plain`). Image bytes only if
    requested."""
    captions: list[str | None]
    """Captions of the good rows as the file has them, length n. Null, blank, "nan", "none" and
    "null" become None. A row with several captions has its first one here, with `Roles.captions`
    the first that is not None."""
    urls: list[str | None]
    """URLs of the good rows, length n. They are None if null or blank, or if the file has none."""
    uids: list[str]
    """Uids of the good rows, 32 lower-case hex digits; length n (see `make_uid`)."""
    own_uids: list[bool]
    """Whether each uid is the manifest's own, which several rows may share; length n."""
    pairs: list[str | None]
    """Keys that equal pairs share, length n: 32 lower-case hex digits from the captions and the URL
    or another name of the image, or None for an image without a name (see `make_pair`)."""
    bad: list[BadRow]
    """The bad rows, ascending by ordinal."""
    others: list[list[str]] = field(default_factory=list)
    """The further captions of each good row, distinct and none of them blank, "nan", "none" or
    "null". The length is n, or 0 without `Roles.captions`."""

    @property
    def rows(self) -> int:
        """Return the number of rows, good and bad."""
        return len(self.ordinals) + len(self.bad)


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive rows of a span as a format's reader delivers them."""

    ordinals: list[int]
    """Indices of the rows of `table` inside the span."""
    table: pa.Table
    """The rows in which the format found no fault."""
    bad: list[BadRow]
    """The rows in which the format found a fault."""
    captions: list[str | None] | None = None
    """Captions as the file has them, if the table does not hold them as plain text (lists in
    JSON)."""
    several: list[list[str | None]] | None = None
    """All captions of rows that have several, if the table does not hold them as text or lists
    (JSON)."""
    stand_ins: list[str | None] | None = None
    """Identifiers of images other than URLs, if they are in no column of their own (see
    `make_uid`)."""


class ManifestError(Exception):
    """An error in the input or its store; see the subclasses."""


class NoInput(ManifestError):
    """The input cannot be used, for example because a pattern matches nothing. The user must fix
    it."""


class BadSchema(ManifestError):
    """The columns or format of files are not those requested, or differ between the files. The user
    must fix it."""


def in_words(broken: Broken) -> str:
    """Return the file and its error as text."""
    return f"{broken['path']}: {broken['message']}"


class UnreadableFile(ManifestError):
    """A file, or a part of one, cannot be read. A run records it in the dead-letter table."""

    def __init__(self, path: str, error: str, message: str) -> None:
        # All arguments go to the base class, so that the exception survives pickling between
        # processes.
        super().__init__(path, error, message)
        self.path = path
        """The file."""
        self.error = error
        """Short name of the error, often its class."""
        self.message = message
        """Text for the user."""

    @property
    def record(self) -> Broken:
        """Return the error in the form stored in records."""
        return {"path": self.path, "error": self.error, "message": self.message}

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.error}: {self.message}"


class Unreachable(ManifestError):
    """A store or hub does not answer, or refuses for now. The file is not at fault, and a retry may
    succeed."""


class FileChanged(ManifestError):
    """A file has changed, or is gone, since its spans were cut. Rows read from it must not be
    used."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)  # all arguments, so that the exception survives pickling
        self.path = path
        """The file."""
        self.what = what
        """How the file differs."""

    def __str__(self) -> str:
        return f"{self.path} {self.what}"
