"""Tables as text: TSV and CSV. Empty lines are not rows.

TSV: tabs separate; there are no quotes and no escapes. CSV (RFC 4180): a quoted field may hold line
ends, and a stray quote must not swallow the rest of the file.
"""

import codecs
import csv
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import ClassVar, Self

from open_diht.common.naming import listing
from open_diht.common.spelling import spelled_option
from open_diht.pipelines.datasets import Dataset, Roles
from open_diht.pipelines.manifests.files import open_file, open_stream, reading
from open_diht.pipelines.manifests.formats.base import (
    IN_UTF16,
    UTF16,
    Fault,
    Good,
    check_plain,
    register_format,
)
from open_diht.pipelines.manifests.formats.lines import Head, Line, LineFormat, empty, mean
from open_diht.pipelines.manifests.schema import COLUMNS
from open_diht.pipelines.manifests.types import (
    MAX_ROW_BYTES,
    BadSchema,
    Column,
    Compression,
    FileInfo,
    Span,
    UnreadableFile,
)

_SCAN_BYTES = 2**20
_PROBLEM_BYTES = 16 * 2**10
"""Bytes of a file's beginning in which problems are looked for."""
CR_ALONE = "its lines end with CR alone; convert it: tr '\\r' '\\n' < in > out"
Record = tuple[bytes, int, list[str] | Fault]
"""A row: its lines joined by line feeds, the offset of the first byte after it in the uncompressed
stream, and its fields or its fault."""


class _Delimited(LineFormat):
    """A format with fields in rows, and column names from a header or from the data set."""

    quotes: ClassVar[bool] = False
    """Whether a quoted field may hold line ends."""

    @abstractmethod
    def records(self, lines: Iterator[Line], dataset: Dataset) -> Iterator[Record]:
        """Yield the records of consecutive lines, skipping empty lines."""

    def check(self, path: str, head: bytes, compression: Compression) -> None:
        if not head.startswith(UTF16):  # `look` reports it with the file's other problems
            super().check(path, head, compression)

    def look(self, path: str, size: int, compression: Compression, dataset: Dataset) -> FileInfo:
        try:
            return super().look(path, size, compression, dataset)
        except (BadSchema, UnreadableFile) as error:
            problems = _problems(path, compression, dataset, self)
            if len(problems) < 2:
                raise
            if isinstance(error, UnreadableFile):
                raise UnreadableFile(path, error.error, _numbered(problems)) from error
            raise BadSchema(f"{path}: {_numbered(problems)}") from error

    def head(self, lines: list[Line], path: str, dataset: Dataset) -> Head:
        if lines[0].raw.startswith(UTF16):
            check_plain(path, lines[0].raw, self.name)
        found = list(self.records(iter(lines), dataset))
        if not found:
            raise empty(path)
        # CR alone does not end a line here, but a quoted field may hold it.
        is_quoted = self.quotes and not isinstance(found[0][2], Fault)
        if len(lines) == 1 and b"\r" in lines[0].raw.rstrip(b"\r") and not is_quoted:
            raise UnreadableFile(path, "LineEnds", CR_ALONE)
        data_start = 0
        names = list(dataset.columns)
        if dataset.header:
            (_, data_start, first), *found = found
            if isinstance(first, Fault):
                raise UnreadableFile(
                    path, "NotText", f"its header cannot be read as {self.name}: {first.message}"
                )
            names = first
        else:
            _check_first_row(
                [[] if isinstance(row, Fault) else row for _, _, row in found],
                dataset,
                path,
                self.name,
            )
        return Head(
            columns=tuple(Column(name=name, type="string", kind="text") for name in names),
            data_start=data_start,
            row_bytes=mean([len(raw) + 1 for raw, _, _ in found]),
        )

    def roles(self, columns: Sequence[Column], dataset: Dataset, path: str) -> Roles:
        try:
            return super().roles(columns, dataset, path)
        except BadSchema as error:
            hint = (
                _header_hint([column.name for column in columns], self.name)
                if dataset.header
                else ""
            )
            raise BadSchema(f"{error}{hint}") from error

    def rows(
        self, lines: Iterator[Line], info: FileInfo, dataset: Dataset
    ) -> Iterator[Good | Fault]:
        count = len(info.columns)
        for raw, _, fields in self.records(lines, dataset):
            if isinstance(fields, Fault):
                yield fields
            elif len(fields) != count:
                yield Fault(
                    "field_count", f"{len(fields)} fields where the file has {count} columns", raw
                )
            else:
                yield Good(fields, len(raw))


@register_format
class Tsv(_Delimited):
    """Tables whose fields are always separated by tabs."""

    name = "tsv"
    endings = (".tsv", ".tab")

    def records(self, lines: Iterator[Line], dataset: Dataset) -> Iterator[Record]:
        for line in lines:
            if not line.empty:
                fault = _oversized(line) or _checked(line.raw)
                yield (
                    line.raw,
                    line.end,
                    fault or line.raw.removesuffix(b"\r").decode("utf-8").split("\t"),
                )


@register_format
class Csv(_Delimited):
    """Tables with quoted fields and the data set's delimiter."""

    name = "csv"
    quotes = True
    endings = (".csv",)

    def records(self, lines: Iterator[Line], dataset: Dataset) -> Iterator[Record]:
        """Yield the records of consecutive lines, skipping empty lines. If the csv module detects a
        misplaced or unclosed quote (or a CR outside quotes), the line where the record began is
        bad. Reading continues with the next line, so that the rest of the file is not lost."""
        # The csv module's limit is global, 128 KiB by default. No check here relies on a lower one.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
        source = _Source(lines)
        reader = csv.reader(source, delimiter=dataset.delimiter, strict=True)
        while True:
            source.taken.clear()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                line = source.back_to_first()
                wrong = Fault(
                    "quoting",
                    f"{error}; double quotes in a quoted field, and quote line ends",
                    line.raw,
                )
                yield line.raw, line.end, _oversized(line) or wrong
                continue
            if fields:
                raw = b"\n".join(line.raw for line in source.taken)
                yield raw, source.taken[-1].end, _checked(raw) or fields

    def split(self, info: FileInfo, unit_rows: int) -> list[Span]:
        # After a quote, a line end may be part of a field.
        if not info.compression and info.estimated_rows > unit_rows and _has_quotes(info):
            return [self.whole(info)]
        return super().split(info, unit_rows)


class _Source:
    """The source of lines for csv.reader, which remembers the lines of the current record."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._waiting: deque[Line] = deque()
        self.taken: list[Line] = []
        self._size = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._next()
        while line.empty and not self.taken:
            line = self._next()
        self._size = line.size + (self._size if self.taken else 0)
        self.taken.append(line)
        if self._size > MAX_ROW_BYTES:
            raise csv.Error(
                f"a quote that opens in this row is not closed within {MAX_ROW_BYTES} bytes"
            )
        # surrogateescape passes invalid UTF-8 through; the check of the whole record, which has the
        # raw bytes, finds it.
        return line.raw.decode("utf-8", "surrogateescape") + "\n"

    def _next(self) -> Line:
        return self._waiting.popleft() if self._waiting else next(self._lines)

    def back_to_first(self) -> Line:
        """Return the record's first line, and put back its other lines to be read again."""
        first, *rest = self.taken
        self._waiting.extendleft(reversed(rest))
        return first


def _oversized(line: Line) -> Fault | None:
    message = f"the line has {line.size} bytes, more than {MAX_ROW_BYTES}"
    return Fault("oversized", message, line.raw) if line.oversized else None


def _checked(raw: bytes) -> Fault | None:
    """Return the fault in the bytes of a record. Return None for a good record."""
    if b"\0" in raw:
        message = (
            f"byte {raw.index(0)} of the row is NUL; a damaged disk or UTF-16 leaves such bytes"
        )
        return Fault("nul_byte", message, raw)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        message = (
            f"byte {error.start} of the row, {raw[error.start : error.start + 1]!r}, is not UTF-8"
        )
        return Fault("invalid_utf8", message, raw)
    return None


def _has_quotes(info: FileInfo) -> bool:
    # Quotes mostly occur early. A file without any is scanned once, which is far faster than
    # reading its rows.
    with reading(info.path), open_file(info.path) as handle:
        while chunk := handle.read(_SCAN_BYTES):
            if b'"' in chunk:
                return True
    return False


def _check_first_row(rows: list[list[str]], dataset: Dataset, path: str, format: str) -> None:
    """Refuse a file without header whose first complete row does not fit its columns; no later
    check would notice."""
    columns = dataset.columns
    first = next((fields for fields in rows if len(fields) == len(columns)), None)
    if first is None:
        raise BadSchema(
            f"{path}: no line among the first {len(rows)} has {len(columns)} fields"
            f" ({', '.join(columns)}); the first has {len(rows[0])}. Is it really {format}? Else"
            f" name the columns: {COLUMNS}"
        )
    url = _url_column(dataset)
    if url is None or first[columns.index(url)].startswith("http"):
        return
    shown = first[columns.index(url)][:60]
    message = (
        f"{path}: the first complete row has {shown!r} in column '{url}', where an address starts"
        " with http"
    )
    elsewhere = [index for index, value in enumerate(first) if value.startswith("http")]
    if elsewhere:
        swapped = list(columns)
        index = columns.index(url)
        swapped[index], swapped[elsewhere[0]] = swapped[elsewhere[0]], swapped[index]
        raise BadSchema(
            f"{message}; the columns are in another order: --columns {','.join(swapped)}"
        )
    if [value.strip().casefold() for value in first] == [name.casefold() for name in columns]:
        raise BadSchema(
            f"{message}; this line is a header: leave --columns out, or read the file with "
            f"{spelled_option('dataset', 'custom')}"
        )
    raise BadSchema(f"{message}; name the columns in the order of the file: {COLUMNS}")


def _url_column(dataset: Dataset) -> str | None:
    if dataset.roles.url is not None:
        return dataset.roles.url if dataset.roles.url in dataset.columns else None
    aliases = {alias.casefold() for alias in dataset.aliases_of("url")}
    return next((column for column in dataset.columns if column.casefold() in aliases), None)


def _problems(
    path: str, compression: Compression, dataset: Dataset, format: _Delimited
) -> list[str]:
    """Return all problems at the beginning of a table, each found as if the problems before it were
    repaired."""
    with reading(path), open_stream(path, compression) as stream:
        raw = stream.read(_PROBLEM_BYTES)
    found = []
    if raw.startswith(UTF16):
        found.append(f"the file is UTF-16; {IN_UTF16}")
        text = raw[: len(raw) // 2 * 2].decode("utf-16", "replace")
    else:
        try:
            text = codecs.getincrementaldecoder("utf-8-sig")().decode(raw)
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            found.append(
                f"line {line} is not UTF-8; if it is Latin-1, convert it: iconv -f LATIN1 -t UTF-8"
                " in > out"
            )
            text = raw.decode("latin-1")
    if "\n" not in text and "\r" in text:
        found.append(CR_ALONE)
    rows = text.splitlines()[: -1 if len(raw) == _PROBLEM_BYTES else None]
    first = next((row for row in rows if row.strip()), "")
    mark = max(",\t;|", key=first.count)
    if mark in first and (dataset.delimiter if format.quotes else "\t") not in first:
        found.append(f"{mark!r} separates the columns; pass {_with_mark(mark, format.name)}")
        format, dataset = (
            (Tsv(), dataset) if mark == "\t" else (Csv(), dataset.with_roles(delimiter=mark))
        )
    lines = [Line(0, row.encode(), len(row), empty=not row) for row in rows]
    try:
        if first:
            format.roles(format.head(lines, path, dataset).columns, dataset, path)
    except BadSchema as error:
        found.append(str(error).removeprefix(f"{path}: "))
    except UnreadableFile as error:
        found.append(error.message)
    return found


def _numbered(problems: list[str]) -> str:
    return " ".join(f"({number}) {problem}." for number, problem in enumerate(problems, 1))


def _with_mark(mark: str, format: str) -> str:
    """Return the options that make `mark` the separator of columns in a file that is read as
    `format`."""
    if mark == "\t":
        return "--format tsv"
    if format != "csv":
        return "--format csv" if mark == "," else f"--format csv --delimiter '{mark}'"
    return f"--delimiter '{mark}'"


def _header_hint(names: list[str], format: str) -> str:
    if any(name.startswith("http") for name in names):
        shown = listing([repr(name[:30]) for name in names], 4)
        return (
            f". The first line ({shown}) looks like data; for a file without header, name the"
            f" columns: {COLUMNS}"
        )
    mark = next((mark for mark in ",\t;|" if mark in names[0]), None)
    if len(names) == 1 and mark is not None:
        return (
            f". The header has one field: does {mark!r} separate the columns? Then pass"
            f" {_with_mark(mark, format)}"
        )
    return ""
