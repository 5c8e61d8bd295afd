"""Tables as text. TSV: tabs separate, nothing quotes and nothing escapes. CSV (RFC 4180): a quoted field may hold line
ends, and a stray quote must not swallow the file. An empty line is no row in either."""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from open_diht.pipelines.datasets import Dataset, Roles
from open_diht.pipelines.datasets.naming import listing
from open_diht.pipelines.manifests.files import open_file, reading
from open_diht.pipelines.manifests.formats.base import Fault, Good, register_format
from open_diht.pipelines.manifests.formats.lines import Head, Line, LineFormat, empty, mean
from open_diht.pipelines.manifests.schema import COLUMNS
from open_diht.pipelines.manifests.types import (
    MAX_RAW_BYTES,
    MAX_ROW_BYTES,
    BadReason,
    BadSchema,
    Column,
    FileInfo,
    Span,
    UnreadableFile,
)

_SCAN_BYTES = 2**20
_Why = tuple[BadReason | None, str]
"""What is wrong with a record, as a code and for people."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row: fields, or the reason why there are none. Not keyword-only, since millions are made."""

    raw: bytes
    """Its lines, joined by line feeds; cut to MAX_RAW_BYTES where it is bad."""
    fields: list[str]
    """Its fields; empty where it is bad."""
    end: int
    """Offset of the first byte after it in the uncompressed stream."""
    error: BadReason | None = None
    """Why it is bad; None where it is good."""
    message: str = ""
    """The same for people."""


class _Delimited(LineFormat):
    """What both have in common: a header, or names that the data set gives, and fields."""

    @abstractmethod
    def records(self, lines: Iterator[Line], dataset: Dataset) -> Iterator[Record]:
        """Yields the records of consecutive lines; empty lines are none."""

    def head(self, lines: list[Line], path: str, dataset: Dataset) -> Head:
        if len(lines) == 1 and b"\r" in lines[0].raw.rstrip(b"\r"):
            message = "its lines end with CR alone; convert it: tr '\\r' '\\n' < in > out"
            raise UnreadableFile(path, "LineEnds", message)
        found = list(self.records(iter(lines), dataset))
        if not found:
            raise empty(path)
        if dataset.header:
            first, *rest = found
            if first.error is not None:
                raise UnreadableFile(path, "NotText", f"its header cannot be read as {self.name}: {first.message}")
            names, data_start = first.fields, first.end
        else:
            rest, names, data_start = found, list(dataset.columns), 0
            _check_first_row(rest, dataset, path, self.name)
        return Head(
            columns=tuple(Column(name=name, type="string", kind="text") for name in names),
            data_start=data_start,
            row_bytes=mean([len(record.raw) + 1 for record in rest]),
        )

    def roles(self, columns: Sequence[Column], dataset: Dataset, path: str) -> Roles:
        try:
            return super().roles(columns, dataset, path)
        except BadSchema as error:
            hint = _header_hint([column.name for column in columns], self.name) if dataset.header else ""
            raise BadSchema(f"{error}{hint}") from error

    def rows(self, lines: Iterator[Line], info: FileInfo, dataset: Dataset) -> Iterator[Good | Fault]:
        count = len(info.columns)
        for record in self.records(lines, dataset):
            if record.error is not None:
                yield Fault(record.error, record.message, record.raw)
            elif len(record.fields) != count:
                message = f"{len(record.fields)} fields where the file has {count} columns"
                yield Fault("field_count", message, record.raw)
            else:
                yield Good(record.fields, len(record.raw))


@register_format
class Tsv(_Delimited):
    """Tabs separate, always."""

    name = "tsv"
    endings = (".tsv", ".tab")

    def records(self, lines: Iterator[Line], dataset: Dataset) -> Iterator[Record]:
        for line in lines:
            if line.raw in (b"", b"\r"):
                continue
            end = line.offset + line.size + 1
            error, message = _oversized(line) if line.oversized else _checked(line.raw)
            fields = [] if error else line.raw.removesuffix(b"\r").decode("utf-8").split("\t")
            yield Record(line.raw, fields, end, error, message)


@register_format
class Csv(_Delimited):
    """The data set says what separates."""

    name = "csv"
    endings = (".csv",)

    def records(self, lines: Iterator[Line], dataset: Dataset) -> Iterator[Record]:
        return csv_records(lines, dataset.delimiter)

    def split(self, info: FileInfo, unit_rows: int) -> list[Span]:
        # Behind a quote a line end may belong to a field.
        if not info.compression and info.estimated_rows > unit_rows and _has_quotes(info):
            return [self.whole(info)]
        return super().split(info, unit_rows)


def csv_records(lines: Iterator[Line], delimiter: str) -> Iterator[Record]:
    """Yields the records of consecutive lines; empty lines are none.

    After a quote that is out of place or never closed, the line where the record began is bad and reading goes on with
    the line after it, so that the damage is one line and not the rest of the file.
    """
    # The limit is the csv module's own and global; it is 128 KiB unless raised, and no check of ours rests on it being
    # lower.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    source = _Source(lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _bad(source.back_to_first(), "quoting", f"{error}; double the quotes inside a quoted field")
            continue
        except _TooLong:
            line = source.back_to_first()
            if line.oversized:
                yield _bad(line, *_oversized(line))
            else:
                yield _bad(line, "quoting", f"a quote that opens here is not closed within {MAX_ROW_BYTES} bytes")
            continue
        if fields:
            last, raw = source.taken[-1], b"\n".join(line.raw for line in source.taken)
            wrong = _checked(raw)
            yield Record(raw, [] if wrong[0] else fields, last.offset + last.size + 1, *wrong)


def _bad(line: Line, error: BadReason | None, message: str) -> Record:
    return Record(line.raw[:MAX_RAW_BYTES], [], line.offset + line.size + 1, error, message)


class _TooLong(Exception):
    """The record under way grew past MAX_ROW_BYTES."""


class _Source:
    """Feeds lines to csv.reader and remembers which ones the current record took."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._waiting: deque[Line] = deque()
        self.taken: list[Line] = []
        self._size = 0

    def __iter__(self) -> _Source:
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self._size = line.size + (self._size if self.taken else 0)
        self.taken.append(line)
        if self._size > MAX_ROW_BYTES:
            raise _TooLong
        # surrogateescape lets bytes that are no UTF-8 through to the check of the whole record, which has the raw
        # bytes.
        return line.raw.decode("utf-8", "surrogateescape") + "\n"

    def back_to_first(self) -> Line:
        """Returns the record's first line and puts the others back to be read again."""
        first, *rest = self.taken
        self._waiting.extendleft(reversed(rest))
        return first


def _oversized(line: Line) -> _Why:
    return "oversized", f"the line has {line.size} bytes, more than {MAX_ROW_BYTES}"


def _checked(raw: bytes) -> _Why:
    """Returns what is wrong with the bytes of a record; (None, "") where nothing is."""
    if b"\0" in raw:
        return "nul_byte", f"byte {raw.index(0)} of the row is NUL; a damaged disk or UTF-16 leaves such bytes"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return "invalid_utf8", f"byte {error.start} of the row, {raw[error.start : error.start + 1]!r}, is no UTF-8"
    return None, ""


def _has_quotes(info: FileInfo) -> bool:
    # A quote is mostly met early; a file without any is read through once, far faster than its rows will be.
    with reading(info.path), open_file(info.path) as handle:
        while chunk := handle.read(_SCAN_BYTES):
            if b'"' in chunk:
                return True
    return False


def _check_first_row(rows: list[Record], dataset: Dataset, path: str, format: str) -> None:
    """Refuses a header-less file whose columns are in another order than expected: nothing else would notice."""
    columns = dataset.columns
    first = next((record.fields for record in rows if len(record.fields) == len(columns)), None)
    if first is None:
        having = len(rows[0].fields)
        raise BadSchema(
            f"{path}: no line among the first {len(rows)} has {len(columns)} fields ({', '.join(columns)}); "
            f"the first has {having}. Is it really {format}? Else name the columns: {COLUMNS}"
        )
    url = _url_column(dataset)
    if url is None or first[columns.index(url)].startswith("http"):
        return
    shown = first[columns.index(url)][:60]
    message = f"{path}: the first row has {shown!r} where column '{url}' should hold an address that starts with http"
    elsewhere = [index for index, value in enumerate(first) if value.startswith("http")]
    if elsewhere:
        swapped = list(columns)
        index = columns.index(url)
        swapped[index], swapped[elsewhere[0]] = swapped[elsewhere[0]], swapped[index]
        raise BadSchema(f"{message}; the columns are in another order: --columns {','.join(swapped)}")
    if [value.strip().casefold() for value in first] == [name.casefold() for name in columns]:
        raise BadSchema(f"{message}; this line is a header: read the file with DATASET=custom")
    raise BadSchema(f"{message}; name the columns in the order of the file: {COLUMNS}")


def _url_column(dataset: Dataset) -> str | None:
    if dataset.roles.url is not None:
        return dataset.roles.url if dataset.roles.url in dataset.columns else None
    aliases = {alias.casefold() for alias in dataset.aliases_of("url")}
    return next((column for column in dataset.columns if column.casefold() in aliases), None)


def _header_hint(names: list[str], format: str) -> str:
    if any(name.startswith("http") for name in names):
        shown = listing([repr(name[:30]) for name in names], 4)
        return f". The first line ({shown}) looks like data; for a file without header, name the columns: {COLUMNS}"
    if len(names) == 1 and ("," in names[0] or "\t" in names[0]):
        other = "csv" if format == "tsv" else "tsv"
        return f". The header has one field: is the file {other}? Then say --format {other}"
    if len(names) == 1 and (found := next((mark for mark in ";|" if mark in names[0]), None)) is not None:
        say = f"--delimiter '{found}'" if format == "csv" else f"--format csv --delimiter '{found}'"
        return f". The header has one field: does '{found}' separate the columns? Then say {say}"
    return ""
