"""CSV records (RFC 4180) from lines: a quoted field may hold line ends, and a stray quote must not swallow the file."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.manifests.batch import MAX_RAW_BYTES, MAX_ROW_BYTES, BadReason
from pipelines.manifests.lines import Line


@dataclass(frozen=True, slots=True)
class Record:
    """One CSV record: fields, or the reason why there are none. Not keyword-only, since millions are made."""

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


def records(lines: Iterator[Line], delimiter: str) -> Iterator[Record]:
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
                yield _bad(line, "oversized", f"the line has {line.size} bytes, more than {MAX_ROW_BYTES}")
            else:
                yield _bad(line, "quoting", f"a quote that opens here is not closed within {MAX_ROW_BYTES} bytes")
            continue
        if fields:
            last = source.taken[-1]
            yield Record(b"\n".join(line.raw for line in source.taken), fields, last.offset + last.size + 1)


def _bad(line: Line, error: BadReason, message: str) -> Record:
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
