"""Lines of a byte stream, bounded in memory however long a line is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from pipelines.manifests.batch import MAX_RAW_BYTES, MAX_ROW_BYTES

_CHUNK_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One line. Not keyword-only, since millions are made."""

    offset: int
    """Of its first byte in the uncompressed stream."""
    raw: bytes
    """The line without line feed and without the byte order mark of a file; cut to MAX_RAW_BYTES where oversized."""
    size: int
    """Its length in bytes, line feed not counted."""

    @property
    def oversized(self) -> bool:
        """Whether the line is longer than MAX_ROW_BYTES, so that `raw` is only its beginning."""
        return self.size > MAX_ROW_BYTES


def lines(stream: IO[bytes], *, start: int = 0, stop: int | None = None) -> Iterator[Line]:
    """Yields the lines that begin in [start, stop). Lines end with a line feed; the last one may go without.

    Args:
        stream: positioned at `start`, which is the beginning of a line.
        start: offset of the stream's position, in bytes.
        stop: no line that begins here or later is yielded; None: to the end.
    """
    offset, kept, size = start, b"", 0
    if stop is not None and offset >= stop:
        return
    while chunk := stream.read(_CHUNK_BYTES):
        begin = 0
        while (end := chunk.find(b"\n", begin)) >= 0:
            size += end - begin
            yield _line(offset, _keep(kept, chunk[begin:end], size), size)
            offset, kept, size, begin = offset + size + 1, b"", 0, end + 1
            if stop is not None and offset >= stop:
                return
        size += len(chunk) - begin
        kept = _keep(kept, chunk[begin:], size)
    if size:
        yield _line(offset, kept, size)


def lines_of_range(stream: IO[bytes], *, start: int, stop: int) -> Iterator[Line]:
    """Yields the lines of a seekable stream that begin in [start, stop), wherever `start` falls."""
    if start == 0:
        yield from lines(stream, stop=stop)
        return
    # From one byte earlier, the first "line" ends exactly where the first line that begins at or after `start` begins.
    stream.seek(start - 1)
    found = lines(stream, start=start - 1, stop=stop)
    next(found, None)
    yield from found


def _keep(kept: bytes, more: bytes, size: int) -> bytes:
    # Past the limit only the beginning is held: a hostile line may be as long as the file.
    if size > MAX_ROW_BYTES:
        return (kept + more[:MAX_RAW_BYTES])[:MAX_RAW_BYTES]
    return kept + more if kept else more


def _line(offset: int, raw: bytes, size: int) -> Line:
    return Line(offset, raw.removeprefix(_BOM) if offset == 0 else raw, size)
