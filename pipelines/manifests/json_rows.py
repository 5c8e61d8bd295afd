"""Rows of JSON lines. An empty line is no row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.datasets import Roles
from pipelines.manifests.batch import MAX_ROW_BYTES
from pipelines.manifests.columns import Column
from pipelines.manifests.gathering import Chunk, Fault, Good, gather
from pipelines.manifests.info import FileInfo
from pipelines.manifests.json_cells import BadJson, as_text, cells, parse_object
from pipelines.manifests.lines import Line
from pipelines.manifests.spans import Span
from pipelines.manifests.text_rows import span_lines


def json_chunks(info: FileInfo, span: Span) -> Iterator[Chunk]:
    """Yields the rows of a span of JSON lines."""
    return gather(_rows(span_lines(info, span), info.columns, info.roles), info.columns, captions=True)


def object_of(line: Line) -> dict[str, Any] | Fault:
    """Returns the object that a line holds."""
    if line.oversized:
        return Fault("oversized", f"the line has {line.size} bytes, more than {MAX_ROW_BYTES}", line.raw)
    if b"\0" in line.raw:
        return Fault("nul_byte", f"byte {line.raw.index(0)} of the line is NUL", line.raw)
    try:
        return parse_object(line.raw)
    except BadJson as error:
        return Fault(error.error, error.message, line.raw)


def json_row(
    item: Mapping[str, Any], columns: Sequence[Column], roles: Roles, raw: bytes, stand_in: str | None = None
) -> Good | Fault:
    """Returns an object as a row of `columns`, provided that the roles which are read as text hold text."""
    try:
        caption = as_text(item.get(roles.caption), lists=True) if roles.caption is not None else None
        for role in (roles.url, roles.image_path):
            if role is not None:
                as_text(item.get(role))
    except BadJson as error:
        return Fault(error.error, error.message, raw)
    return Good(cells(item, columns), len(raw), caption, stand_in)


def _rows(found: Iterator[Line], columns: Sequence[Column], roles: Roles) -> Iterator[Good | Fault]:
    for line in found:
        if not line.raw.strip():
            continue
        item = object_of(line)
        yield item if isinstance(item, Fault) else json_row(item, columns, roles, line.raw)
