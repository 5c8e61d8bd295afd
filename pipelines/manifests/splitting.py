"""Cuts a file into spans: a pure function of the file and the wished size, since a rerun must find the same units."""

from __future__ import annotations

from contextlib import closing
from itertools import accumulate, pairwise

from pipelines.manifests.errors import UnreadableFile, reading
from pipelines.manifests.files import open_file
from pipelines.manifests.info import FileInfo
from pipelines.manifests.spans import Span
from pipelines.manifests.tar_rows import samples

_SCAN_BYTES = 2**20


def split(info: FileInfo, unit_rows: int) -> list[Span]:
    """Returns the spans of a file, in order; they tile it without gap or overlap. A file without rows has none.

    Parquet: whole row groups while they fit into `unit_rows`; a larger row group is cut inside. Plain TSV, JSON lines
    and CSV without quotes: byte ranges of about `unit_rows` rows. A plain tar: one span where it seems to have no more
    than `unit_rows` samples, else ranges of exactly `unit_rows` samples, found in one pass over its headers. Compressed
    files and CSV with quotes: one span, since nothing tells where a row begins.

    Args:
        info: the file, from `inspect`.
        unit_rows: wished rows of a span, at least 1.

    Raises:
        ValueError: `unit_rows` is below 1.
        UnreadableFile: the file had to be opened (CSV, large tar) and could not be.
    """
    if unit_rows < 1:
        raise ValueError(f"unit_rows is {unit_rows}; a unit has at least 1 row")
    if info.rows == 0:
        return []
    if info.format == "parquet":
        return _of_groups(info, unit_rows)
    if info.compression or (info.format == "csv" and info.estimated_rows > unit_rows and _has_quotes(info)):
        return [_whole(info)]
    if info.format == "webdataset":
        return _of_samples(info, unit_rows)
    return _of_bytes(info, unit_rows)


def _whole(info: FileInfo) -> Span:
    return Span(path=info.path, format=info.format, start=0, stop=info.bytes, rows=info.estimated_rows, exact=False)


def _of_groups(info: FileInfo, unit_rows: int) -> list[Span]:
    cuts = [0]
    for start, stop in pairwise(accumulate(info.row_groups, initial=0)):
        if stop - start > unit_rows:
            cuts += range(start, stop, unit_rows)
        elif stop - cuts[-1] > unit_rows:
            cuts.append(start)
        if stop - start > unit_rows:
            cuts.append(stop)
    cuts.append(sum(info.row_groups))
    edges = sorted(set(cuts))
    return [
        Span(path=info.path, format=info.format, start=start, stop=stop, rows=stop - start, exact=True)
        for start, stop in pairwise(edges)
    ]


def _of_bytes(info: FileInfo, unit_rows: int) -> list[Span]:
    count = min(max(-(-info.estimated_rows // unit_rows), 1), info.bytes)
    edges = [info.bytes * index // count for index in range(count + 1)]
    spans = []
    for start, stop in pairwise(edges):
        content = max(stop - max(start, info.data_start), 0)
        rows = round(content / info.row_bytes) if info.row_bytes else 0
        spans.append(Span(path=info.path, format=info.format, start=start, stop=stop, rows=rows, exact=False))
    return spans


def _of_samples(info: FileInfo, unit_rows: int) -> list[Span]:
    if info.estimated_rows <= unit_rows:
        return [_whole(info)]
    cuts, count, broken = [0], 0, False
    found = samples(info.path, "", size=info.bytes, limit_of=lambda _place, _extension: 0)
    with closing(found):
        try:
            for sample in found:
                if count and count % unit_rows == 0:
                    cuts.append(sample.offset)
                count += 1
        except UnreadableFile:
            # The last span reaches to the end, so that reading it meets the break and says so.
            broken = True
    edges = [*cuts, info.bytes]
    rows = [unit_rows] * (len(cuts) - 1) + [count - unit_rows * (len(cuts) - 1)]
    last = len(cuts) - 1
    return [
        Span(
            path=info.path,
            format=info.format,
            start=start,
            stop=stop,
            rows=rows[index],
            exact=not (broken and index == last),
        )
        for index, (start, stop) in enumerate(pairwise(edges))
    ]


def _has_quotes(info: FileInfo) -> bool:
    # A quote is mostly met early; a file without any is read through once, far faster than its rows will be.
    with reading(info.path), open_file(info.path) as handle:
        while chunk := handle.read(_SCAN_BYTES):
            if b'"' in chunk:
                return True
    return False
