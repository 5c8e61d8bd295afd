"""A cheap look at a manifest file: its footer, its first lines, or its first members."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from pipelines.datasets import Dataset
from pipelines.datasets.naming import listing
from pipelines.manifests.columns import Column, column_of
from pipelines.manifests.csv_records import Record, records
from pipelines.manifests.errors import BadSchema, UnreadableFile, guarded, reading
from pipelines.manifests.files import file_size, fingerprint
from pipelines.manifests.formats import detect, open_stream
from pipelines.manifests.gathering import Fault
from pipelines.manifests.info import Compression, FileFormat, FileInfo
from pipelines.manifests.json_cells import extra_column, infer_columns
from pipelines.manifests.json_rows import object_of
from pipelines.manifests.lines import Line, lines
from pipelines.manifests.parquet_rows import open_parquet
from pipelines.manifests.roles import COLUMNS, resolve_roles
from pipelines.manifests.tar_rows import infer_tar_columns, samples, text_limit
from pipelines.manifests.text_rows import tsv_fields

_T = TypeVar("_T")
_HEAD_ROWS = 1000
_HEAD_BYTES = 4 * 2**20
_HEAD_SAMPLES = 100


def inspect(path: str, dataset: Dataset) -> FileInfo:
    """Looks at a manifest file: format, columns, roles, rows where cheap, fingerprint.

    Args:
        path: local path or fsspec URL.
        dataset: how its rows are read.

    Raises:
        UnreadableFile: absent, empty, damaged, or not what its name says. Other files are not concerned.
        BadSchema: a needed column is missing, ambiguous, repeated or of the wrong type, or the format is unknown.
    """
    info = look(path, dataset)
    return replace(info, fingerprint=fingerprint(path, info.bytes))


def look(path: str, dataset: Dataset) -> FileInfo:
    """Does what `inspect` does, without the fingerprint ("")."""
    size = file_size(path)
    format, compression = detect(path, dataset)
    match format:
        case "parquet":
            return _look_at_parquet(path, size, dataset)
        case "jsonl":
            return _look_at_json(path, size, compression, dataset)
        case "webdataset":
            return _look_at_tar(path, size, compression, dataset)
        case _:
            return _look_at_table(path, size, format, compression, dataset)


def _look_at_parquet(path: str, size: int, dataset: Dataset) -> FileInfo:
    with open_parquet(path) as opened, reading(path):
        metadata = opened.file.metadata
        groups = tuple(metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
        columns = tuple(column_of(field.name, field.type) for field in opened.file.schema_arrow)
    roles = resolve_roles(columns, dataset, path)
    return FileInfo(
        path=path,
        format="parquet",
        compression="",
        columns=columns,
        roles=roles,
        rows=sum(groups),
        bytes=size,
        fingerprint="",
        row_groups=groups,
        row_bytes=size / sum(groups) if sum(groups) else 0.0,
        pictures=roles.image is not None or roles.image_path is not None,
    )


def _look_at_table(path: str, size: int, format: FileFormat, compression: Compression, dataset: Dataset) -> FileInfo:
    head = _head_lines(path, compression)
    found = list(records(iter(head), dataset.delimiter) if format == "csv" else _tsv_records(head))
    if not found:
        raise UnreadableFile(path, "EmptyFile", "the file has no line that is not empty")
    if dataset.header:
        first, *rest = found
        if first.error is not None or not _is_text(first.raw):
            reason = first.message or "bytes that are no UTF-8, or NUL"
            raise UnreadableFile(path, "NotText", f"its header cannot be read as {format}: {reason}")
        names, data_start = first.fields, first.end
    else:
        rest, names, data_start = found, list(dataset.columns), 0
        _check_first_row(rest, dataset, path, format)
    columns = tuple(Column(name=name, type="string", kind="text") for name in names)
    try:
        roles = resolve_roles(columns, dataset, path)
    except BadSchema as error:
        hint = _header_hint(names, format) if dataset.header else ""
        raise BadSchema(f"{error}{hint}") from error
    return FileInfo(
        path=path,
        format=format,
        compression=compression,
        columns=columns,
        roles=roles,
        rows=0 if data_start >= size and not compression else None,
        bytes=size,
        fingerprint="",
        data_start=data_start,
        row_bytes=_mean([len(record.raw) + 1 for record in rest]),
        pictures=roles.image_path is not None,
    )


def _look_at_json(path: str, size: int, compression: Compression, dataset: Dataset) -> FileInfo:
    head = [line for line in _head_lines(path, compression) if line.raw.strip()]
    if not head:
        raise UnreadableFile(path, "EmptyFile", "the file has no line that is not empty")
    items = [object_of(line) for line in head]
    objects = [item for item in items if not isinstance(item, Fault)]
    first, start = items[0], head[0].raw[:40]
    # An array with one object a line would pass for JSON lines with a few bad rows.
    opens_array = isinstance(first, Fault) and first.error == "invalid_json" and start.startswith(b"[")
    if not objects or opens_array:
        raise BadSchema(
            f"{path}: these are no JSON lines, which hold one object a line: the file starts with {start!r}. "
            "Convert an array or an object of lists, for example with jq -c '.[]'"
        )
    columns = (*infer_columns(objects), extra_column())
    roles = resolve_roles(columns, dataset, path)
    return FileInfo(
        path=path,
        format="jsonl",
        compression=compression,
        columns=columns,
        roles=roles,
        rows=None,
        bytes=size,
        fingerprint="",
        row_bytes=_mean([line.size + 1 for line in head]),
        pictures=roles.image_path is not None,
    )


def _look_at_tar(path: str, size: int, compression: Compression, dataset: Dataset) -> FileInfo:
    found = samples(path, compression, size=size, limit_of=text_limit)
    with closing(found):
        head = list(_until_broken(islice(found, _HEAD_SAMPLES + 1)))
    if not head:
        raise UnreadableFile(
            path, "EmptyTar", "the tar has no members named <key>.<extension>, or breaks before the first sample ends"
        )
    if not any(sample.contents for sample in head):
        having = listing(sorted({f".{extension}" for sample in head for extension in sample.sizes}))
        raise BadSchema(
            f"{path}: the tar holds no captions: its first {len(head)} samples have only members {having}. A sample "
            "needs <key>.txt with its caption, or <key>.json with a field for it, beside its picture"
        )
    columns = infer_tar_columns(head)
    pictures = any(sample.picture() is not None for sample in head)
    roles = resolve_roles(columns, dataset, path, pictures=pictures)
    return FileInfo(
        path=path,
        format="webdataset",
        compression=compression,
        columns=columns,
        roles=roles,
        rows=None,
        bytes=size,
        fingerprint="",
        row_bytes=(head[-1].offset - head[0].offset) / (len(head) - 1) if len(head) > 1 else float(size),
        pictures=pictures or roles.image_path is not None,
    )


def _head_lines(path: str, compression: Compression) -> list[Line]:
    """Returns the first lines of a file, at most _HEAD_ROWS and about _HEAD_BYTES of them."""
    with reading(path):
        stream = open_stream(path, compression)
    head: list[Line] = []
    with stream:
        for line in _until_broken(guarded(path, lines(stream))):
            head.append(line)
            if len(head) >= _HEAD_ROWS or line.offset > _HEAD_BYTES:
                break
    return head


def _until_broken(items: Iterator[_T]) -> Iterator[_T]:
    """Yields the items before a break, which reading will meet again; where there are none, raises it."""
    seen = False
    try:
        for item in items:
            seen = True
            yield item
    except UnreadableFile:
        if not seen:
            raise


def _tsv_records(head: list[Line]) -> Iterator[Record]:
    for line in head:
        if line.raw in (b"", b"\r"):
            continue
        fields, end = tsv_fields(line), line.offset + line.size + 1
        yield (
            Record(line.raw, [], end, fields.error, fields.message)
            if isinstance(fields, Fault)
            else Record(line.raw, fields, end)
        )


def _is_text(raw: bytes) -> bool:
    try:
        return "\0" not in raw.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _check_first_row(rows: list[Record], dataset: Dataset, path: str, format: FileFormat) -> None:
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


def _header_hint(names: list[str], format: FileFormat) -> str:
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


def _mean(sizes: list[int]) -> float:
    return sum(sizes) / len(sizes) if sizes else 0.0
