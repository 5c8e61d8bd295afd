"""Formats that consist of lines, and a reader of lines of any length in bounded memory."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, ClassVar

from open_diht.pipelines.datasets import Dataset, Roles
from open_diht.pipelines.manifests.files import guarded, open_stream, reading
from open_diht.pipelines.manifests.formats.base import (
    Fault,
    Format,
    Good,
    check_plain,
    gather,
    hint,
    until_broken,
)
from open_diht.pipelines.manifests.schema import resolve_roles
from open_diht.pipelines.manifests.types import (
    MAX_RAW_BYTES,
    MAX_ROW_BYTES,
    Chunk,
    Column,
    Compression,
    FileInfo,
    Span,
    UnreadableFile,
)

# The first lines fix the columns of a file of JSON lines. With more of them, fewer rare keys are
# missed.
_HEAD_ROWS = 1000
# 4 KB for each of the rows; a file of longer lines is judged by fewer.
_HEAD_BYTES = 4 * 2**20
_CHUNK_BYTES = 2**20
# Hundreds of millions of empty lines compress to a megabyte. An object for each would take minutes.
_EMPTY_LINES = re.compile(rb"(?:\r?\n)+")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, or consecutive empty lines. Not keyword-only, since millions are
    created."""

    offset: int
    """Offset of its first byte in the uncompressed stream."""
    raw: bytes
    """The content of the line, without its line feed and the file's byte order mark; cut to
    MAX_RAW_BYTES if oversized."""
    size: int
    """Length in bytes, including the byte order mark but not the line feed."""
    empty: bool = False
    """Whether it stands for one or more empty lines. Then `raw` has their ends, except for the last
    line feed."""

    @property
    def end(self) -> int:
        """Return the offset after the line and a line feed, which the last line may lack."""
        return self.offset + self.size + 1

    @property
    def oversized(self) -> bool:
        """Return whether the line is longer than MAX_ROW_BYTES, so that `raw` is only its
        beginning."""
        return self.size > MAX_ROW_BYTES


def lines(stream: IO[bytes], *, start: int = 0, stop: int | None = None) -> Iterator[Line]:
    """Yield the lines that begin in [start, stop). Lines end with a line feed, which the last may
    lack. Consecutive empty lines are mostly yielded as one, which may end after `stop`. The stream
    is positioned at `start`. If that is inside a line, the rest of this line is yielded first."""
    offset = start
    kept = b""
    size = 0
    if stop is not None and offset >= stop:
        return
    while chunk := stream.read(_CHUNK_BYTES):
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            empty = None if size else _EMPTY_LINES.match(chunk, begin)
            end = end if empty is None else empty.end() - 1
            size += end - begin
            yield _line(offset, _keep(kept, chunk[begin:end], size), size, empty=empty is not None)
            offset, kept, size, begin = offset + size + 1, b"", 0, end + 1
            if stop is not None and offset >= stop:
                return
        size += len(chunk) - begin
        kept = _keep(kept, chunk[begin:], size)
    if size:
        yield _line(offset, kept, size)


def _keep(kept: bytes, more: bytes, size: int) -> bytes:
    # Past the limit only the beginning is kept: a hostile line may be as long as the file.
    if size > MAX_ROW_BYTES:
        return (kept + more[:MAX_RAW_BYTES])[:MAX_RAW_BYTES]
    return kept + more if kept else more


def _line(offset: int, raw: bytes, size: int, empty: bool = False) -> Line:
    raw = raw.removeprefix(_BOM) if offset == 0 else raw
    return Line(offset, raw, size, empty or raw in (b"", b"\r"))


@dataclass(frozen=True, kw_only=True)
class Head:
    """Facts learned from the first lines of a file."""

    columns: tuple[Column, ...]
    """Columns (string, int64, double or bool) in the order of the cells that `rows` yields."""
    data_start: int = 0
    """Offset of the first byte after the header."""
    row_bytes: float = 0.0
    """Mean bytes of a row; 0 if there is none."""


class LineFormat(Format):
    """A format whose rows begin at line starts. By default every line start may begin a row, so
    that uncompressed files can be split anywhere. Compressed files are decompressed. A line of more
    than MAX_ROW_BYTES is `oversized`, and only its beginning is available."""

    captions: ClassVar[bool] = False
    """Whether `Good.caption` and `Good.several` replace the cells of captions."""

    @abstractmethod
    def head(self, lines: list[Line], path: str, dataset: Dataset) -> Head:
        """Return the facts that the first lines of a file tell.

        Args:
            lines: the first lines, at least one of them not empty.

        Raises:
            UnreadableFile, BadSchema: see `Format.look`.
        """

    @abstractmethod
    def rows(
        self, lines: Iterator[Line], info: FileInfo, dataset: Dataset
    ) -> Iterator[Good | Fault]:
        """Yield the rows of consecutive lines after the header, each as `Good` or as `Fault`.

        Args:
            lines: the lines, in order.
        """

    def check(self, path: str, head: bytes, compression: Compression) -> None:
        if compression:
            return
        check_plain(path, head, self.name)
        if hint(head):
            raise UnreadableFile(
                path, "NotAManifest", f"the file starts with {head[:16]!r}{hint(head)}"
            )

    def look(self, path: str, size: int, compression: Compression, dataset: Dataset) -> FileInfo:
        lines = head_lines(path, compression)
        if not lines:
            raise empty(path)
        head = self.head(lines, path, dataset)
        roles = self.roles(head.columns, dataset, path)
        return FileInfo(
            path=path,
            format=self.name,
            compression=compression,
            columns=head.columns,
            roles=roles,
            rows=0 if head.data_start >= size and not compression else None,
            bytes=size,
            data_start=head.data_start,
            row_bytes=head.row_bytes,
            images=roles.image_path is not None,
        )

    def roles(self, columns: Sequence[Column], dataset: Dataset, path: str) -> Roles:
        """Return the column of every role.

        Raises:
            BadSchema: see `resolve_roles`.
        """
        return resolve_roles(columns, dataset, path)

    def chunks(
        self, info: FileInfo, span: Span, dataset: Dataset, *, images: bool
    ) -> Iterator[Chunk]:
        return gather(
            self.rows(span_lines(info, span), info, dataset), info.columns, captions=self.captions
        )

    def split(self, info: FileInfo, unit_rows: int) -> list[Span]:
        if info.compression:
            return [self.whole(info)]
        count = min(max(-(-info.estimated_rows // unit_rows), 1), info.bytes)
        edges = [info.bytes * index // count for index in range(count + 1)]
        spans = []
        for start, stop in pairwise(edges):
            content = max(stop - max(start, info.data_start), 0)
            rows = round(content / info.row_bytes) if info.row_bytes else 0
            spans.append(
                Span(
                    path=info.path, format=self.name, start=start, stop=stop, rows=rows, exact=False
                )
            )
        return spans


def span_lines(info: FileInfo, span: Span) -> Iterator[Line]:
    """Yield the lines of a text file that begin in a span, without the header. A compressed file
    has one span. Lines before damage are yielded before UnreadableFile is raised."""
    with reading(info.path):
        stream = open_stream(info.path, info.compression)
    with stream:
        start = max(span.start, info.data_start)
        if info.compression:
            found = lines(stream)
        elif start == 0:
            found = lines(stream, stop=span.stop)
        else:
            # A span may begin inside a line. Starting one byte earlier, the first line found ends
            # before the span's first.
            with reading(info.path):
                stream.seek(start - 1)
            found = lines(stream, start=start - 1, stop=span.stop)
        for line in guarded(info.path, found):
            if line.offset >= start:
                yield line


def head_lines(path: str, compression: Compression) -> list[Line]:
    """Return the first lines of a file, beginning with a non-empty one, up to _HEAD_ROWS and about
    _HEAD_BYTES."""
    with reading(path):
        stream = open_stream(path, compression)
    head: list[Line] = []
    with stream:
        for line in until_broken(guarded(path, lines(stream))):
            if head or not line.empty:
                head.append(line)
            if len(head) >= _HEAD_ROWS or line.offset > _HEAD_BYTES:
                break
    return head


def empty(path: str) -> UnreadableFile:
    """Return the error for a file whose first lines hold neither a row nor a header."""
    return UnreadableFile(
        path, "EmptyFile", "the file has no line, or only empty ones at its beginning"
    )


def mean(sizes: Sequence[int]) -> float:
    """Return the mean, or 0 for no sizes."""
    return sum(sizes) / len(sizes) if sizes else 0.0
