"""Rows of TSV and CSV files. An empty line is no row in either."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.datasets import Dataset
from pipelines.manifests.batch import MAX_ROW_BYTES
from pipelines.manifests.csv_records import records
from pipelines.manifests.errors import guarded, reading
from pipelines.manifests.formats import open_stream
from pipelines.manifests.gathering import Chunk, Fault, Good, gather
from pipelines.manifests.info import FileInfo
from pipelines.manifests.lines import Line, lines, lines_of_range
from pipelines.manifests.spans import Span


def text_chunks(info: FileInfo, span: Span, dataset: Dataset) -> Iterator[Chunk]:
    """Yields the rows of a TSV or CSV span."""
    count = len(info.columns)
    found = span_lines(info, span)
    rows = _csv_rows(found, count, dataset.delimiter) if info.format == "csv" else _tsv_rows(found, count)
    return gather(rows, info.columns)


def span_lines(info: FileInfo, span: Span) -> Iterator[Line]:
    """Yields the lines of a span of a text file after its header; raises UnreadableFile where the file breaks."""
    with reading(info.path):
        stream = open_stream(info.path, info.compression)
    with stream:
        if info.compression:
            found = lines(stream)
        else:
            found = lines_of_range(stream, start=max(span.start, info.data_start), stop=span.stop)
        for line in guarded(info.path, found):
            if line.offset >= info.data_start:
                yield line


def tsv_fields(line: Line) -> list[str] | Fault:
    """Returns the fields of a TSV line: tabs separate, nothing quotes and nothing escapes."""
    if line.oversized:
        return Fault("oversized", f"the line has {line.size} bytes, more than {MAX_ROW_BYTES}", line.raw)
    fault = _fault_in(line.raw)
    return fault if fault is not None else line.raw.removesuffix(b"\r").decode("utf-8").split("\t")


def _tsv_rows(found: Iterator[Line], count: int) -> Iterator[Good | Fault]:
    for line in found:
        if line.raw in (b"", b"\r"):
            continue
        fields = tsv_fields(line)
        yield fields if isinstance(fields, Fault) else _row(fields, count, line.raw)


def _csv_rows(found: Iterator[Line], count: int, delimiter: str) -> Iterator[Good | Fault]:
    for record in records(found, delimiter):
        if record.error is not None:
            yield Fault(record.error, record.message, record.raw)
            continue
        fault = _fault_in(record.raw)
        yield fault if fault is not None else _row(record.fields, count, record.raw)


def _fault_in(raw: bytes) -> Fault | None:
    if b"\0" in raw:
        return Fault(
            "nul_byte", f"byte {raw.index(0)} of the row is NUL; a damaged disk or UTF-16 leaves such bytes", raw
        )
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(
            "invalid_utf8", f"byte {error.start} of the row, {raw[error.start : error.start + 1]!r}, is no UTF-8", raw
        )
    return None


def _row(fields: list[str], count: int, raw: bytes) -> Good | Fault:
    if len(fields) != count:
        return Fault("field_count", f"{len(fields)} fields where the file has {count} columns", raw)
    return Good(fields, len(raw))
