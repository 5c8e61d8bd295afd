"""Estimate the memory that a few rows of a Parquet row group can take, from its page headers.

A file states neither how large its values are nor how large its pages: with a dictionary page of
one 16 MiB value, a hundred rows take 1.6 GiB, from one kilobyte on disk. The page headers tell
this before rows are unpacked. They can be trusted, because the reader unpacks by them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

_HEADER_BYTES = (2**10, 2**16, 16 * 2**20)
"""Bytes to parse for a header, tried in order. The first usually suffices; readers refuse headers
beyond the last."""
# If pages are small, one read has the headers of several.
_BLOCK_BYTES = 2**16
_DATA = 0
_DICTIONARY = 2
_DATA_V2 = 3
_PLAIN = 0
_PLAIN_DICTIONARY = 2
_DELTA_LENGTHS = 6
_RLE_DICTIONARY = 8
_FIXED_BYTES = 16
"""Most bytes in memory of a value that is not stored as a byte array."""
_PLAUSIBLE = 100
"""If unpacking increases the size of a list column by more than this factor, the whole column may
be one row."""


@dataclass(frozen=True)
class Page:
    """The content of a page header."""

    kind: int
    size: int
    """Size in bytes, compressed or uncompressed, whichever is larger."""
    values: int
    encoding: int
    body: int
    """Offset of the compressed bytes in the file."""
    packed: int
    """Length of the compressed bytes."""


@dataclass(frozen=True)
class ColumnCost:
    """Memory needed to read one column of a row group, in bytes."""

    pages: int
    """Bytes of the pages held at the same time: one data page and the dictionary."""
    row: int
    """Bytes of the largest possible row, as an array."""
    total: int
    """Most bytes of all rows, as an array."""

    def of(self, rows: int) -> int:
        """Return the most bytes that `rows` rows can take as an array."""
        return min(rows * self.row, self.total)


def column_costs(handle: IO[bytes], metadata: pq.FileMetaData, group: int) -> dict[str, ColumnCost]:
    """Return the costs of a row group's columns by path; a nested column has several."""
    chunks = [metadata.row_group(group).column(index) for index in range(metadata.num_columns)]
    return {
        chunk.path_in_schema: _cost(handle, chunk, metadata.schema.column(index))
        for index, chunk in enumerate(chunks)
    }


def _cost(handle: IO[bytes], chunk: pq.ColumnChunkMetaData, column: pq.ColumnSchema) -> ColumnCost:
    byte_array = column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
    width = max(column.length or 0, 0) if byte_array else _FIXED_BYTES
    dictionary = entry = page_bytes = unpacked = total = 0
    for page in _pages(handle, chunk):  # there may be millions, so none is kept
        if page.kind == _DICTIONARY:
            dictionary = entry = max(dictionary, page.size)
            if column.converted_type == "UTF8":
                # Other byte columns may hold images, so their entries are not parsed.
                entry = _largest_entry(handle, chunk, page)
            continue
        size = _unpacked(page, width, entry, byte_array)
        page_bytes, unpacked, total = max(page_bytes, page.size), max(unpacked, size), total + size
    held = page_bytes + dictionary
    if column.max_repetition_level == 0:
        row = max(page_bytes, entry, width) if byte_array else width
        return ColumnCost(held, row, max(total, row))
    plausible = total <= _PLAUSIBLE * max(chunk.total_compressed_size, 1)
    return ColumnCost(held, min(2 * unpacked, total) if plausible else total, total)


def _unpacked(page: Page, width: int, entry: int, byte_array: bool) -> int:
    if not byte_array:
        return page.values * width
    if page.encoding in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
        return page.values * entry
    if page.encoding in (_PLAIN, _DELTA_LENGTHS):
        return max(page.size, page.values * width)
    # DELTA_BYTE_ARRAY: values can repeat the previous one's prefix.
    return page.values * max(page.size, width)


def _pages(handle: IO[bytes], chunk: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """Yield the data and dictionary pages of a column chunk, up to an unparsable header, where the
    reader fails too."""
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (first := chunk.dictionary_page_offset or 0) < at:
        at = first
    stop = at + chunk.total_compressed_size
    left = chunk.num_values
    source = _Block(handle)
    while at < stop and left > 0:
        header = _header(source, at)
        if header is None:
            return
        fields, length = header
        page = _page(fields, at + length)
        if page is None:
            return
        if page.kind in (_DATA, _DICTIONARY, _DATA_V2):
            yield page
        if page.kind != _DICTIONARY:
            left -= page.values
        at = page.body + page.packed


def _page(fields: dict[int, Any], body: int) -> Page | None:
    # The numbers are those of PageHeader's fields in parquet.thrift.
    kind, unpacked, packed = (fields.get(number) for number in (1, 2, 3))
    about = fields.get(
        {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, -1) if isinstance(kind, int) else -1, {}
    )
    numbers = (kind, unpacked, packed)
    if not all(isinstance(number, int) and number >= 0 for number in numbers) or not isinstance(
        about, dict
    ):
        return None
    values = about.get(1, 0)
    encoding = about.get(4 if kind == _DATA_V2 else 2, _PLAIN)
    if not isinstance(values, int) or values < 0 or not isinstance(encoding, int):
        return None
    return Page(
        int(kind or 0),
        max(int(unpacked or 0), int(packed or 0)),
        values,
        encoding,
        body,
        int(packed or 0),
    )


def _largest_entry(handle: IO[bytes], chunk: pq.ColumnChunkMetaData, page: Page) -> int:
    """Return the bytes of a dictionary's largest entry, or of the page if it is large or
    unreadable."""
    if page.size > _HEADER_BYTES[-1]:
        return page.size
    handle.seek(page.body)
    packed = handle.read(page.packed)
    try:
        if chunk.compression != "UNCOMPRESSED":
            packed = pa.decompress(packed, page.size, codec=chunk.compression.lower(), asbytes=True)
    except (pa.ArrowException, OSError, ValueError):
        return page.size
    largest = 0
    at = 0
    for _ in range(page.values):
        length = int.from_bytes(packed[at : at + 4], "little")
        at += 4 + length
        if at > len(packed):
            return page.size
        largest = max(largest, length)
    return largest


class _Block:
    """A file read in blocks, for offsets that mostly lie close together."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._start = 0
        self._content = b""

    def read(self, at: int, size: int) -> bytes:
        end = self._start + len(self._content)
        if not self._start <= at or at + size > end:
            self._handle.seek(at)
            self._start = at
            self._content = self._handle.read(max(size, _BLOCK_BYTES))
        return self._content[at - self._start : at - self._start + size]


def _header(source: _Block, at: int) -> tuple[dict[int, Any], int] | None:
    for size in _HEADER_BYTES:
        content = source.read(at, size)
        try:
            return _Thrift(content).struct()
        except IndexError:
            if len(content) < size:  # the file ends within the header
                return None
        except ValueError:
            return None
    return None


class _Thrift:
    """A parser of structs in Thrift's compact protocol, as far as page headers use it. It raises
    IndexError if the struct continues after the given bytes, and ValueError if it is not a
    struct."""

    _MOST_DEPTH = 8

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """Return the fields by number, and the offset after the struct."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            fields[number] = self._value(head & 15, depth)
        return fields, self._at

    def _value(self, type: int, depth: int) -> Any:
        if depth > self._MOST_DEPTH:
            raise ValueError("structs or lists in each other, deeper than in any page header")
        match type:
            case 1 | 2:
                return type == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._varint())
            case 9 | 10:
                head = self._byte()
                # Larger counts follow as a varint.
                count = head >> 4 if head >> 4 < 15 else self._varint()
                return [
                    self._value(3 if head & 15 in (1, 2) else head & 15, depth + 1)
                    for _ in range(count)
                ]
            case 12:
                return self.struct(depth + 1)[0]
        raise ValueError(f"no type {type} in a page header")

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._content):
            raise IndexError
        return self._content[self._at - count : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)  # zigzag encoding: the lowest bit is the sign
