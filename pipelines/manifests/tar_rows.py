"""Samples of webdataset tars: consecutive members whose paths agree up to the first dot of the name."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from common.image_formats import EXTENSIONS
from pipelines.manifests.batch import MAX_ROW_BYTES
from pipelines.manifests.columns import Column
from pipelines.manifests.errors import guarded, reading
from pipelines.manifests.formats import open_stream
from pipelines.manifests.gathering import Chunk, Fault, Good, gather
from pipelines.manifests.info import Compression, FileInfo
from pipelines.manifests.json_cells import EXTRA, BadJson, extra_column, infer_columns, parse_object
from pipelines.manifests.json_rows import json_row
from pipelines.manifests.spans import Span
from pipelines.manifests.tar_stream import TarStream

KEY, TEXT, JSON = "__key__", "txt", "json"
"""Column of the sample's key; member and column of its caption; member of its other columns."""
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_TEXTS = (TEXT, JSON)


@dataclass(kw_only=True)
class Sample:
    """The members of one sample."""

    key: str
    """Path of its members up to the first dot of the name."""
    offset: int
    """Of the first byte of its first header, in the uncompressed tar."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Size of every member by its extension (lower case, without the first dot), in bytes."""
    contents: dict[str, bytes] = field(default_factory=dict)
    """Contents of the members that were asked for, by extension."""
    doubled: str | None = None
    """Extension that occurs twice."""

    def picture(self) -> str | None:
        """Returns the extension of its picture member, None where it has none."""
        return next((extension for extension in EXTENSIONS if extension in self.sizes), None)


def samples(
    path: str,
    compression: Compression,
    *,
    start: int = 0,
    stop: int | None = None,
    size: int,
    limit_of: Callable[[int, str], int],
) -> Generator[Sample, None, None]:
    """Yields the samples that begin in [start, stop) of a tar.

    Args:
        path: the tar.
        compression: what it is compressed with; then `start` is 0.
        start: offset of the first header of a sample.
        stop: offset where no sample of ours begins any more; None: to the end.
        size: of the file, in bytes.
        limit_of: from a sample's place (from 0) and an extension to how many bytes of that member to read; 0 to pass
            over it.

    Raises:
        UnreadableFile: the tar breaks; the samples that were whole before the break are yielded first.
    """
    with reading(path):
        stream = open_stream(path, compression)
    with stream:
        tar = TarStream(stream, start=start, size=None if compression else size)
        current: Sample | None = None
        place = -1
        for member in guarded(path, tar):
            if (parts := _NAME.fullmatch(member.name)) is None:
                continue  # a member without extension is no part of a sample
            key, extension = parts[1], parts[2].lower()
            if current is None or key != current.key:
                if current is not None:
                    yield current
                if stop is not None and member.offset >= stop:
                    return
                current = Sample(key=key, offset=member.offset)
                place += 1
            if extension in current.sizes:
                current.doubled = extension
            current.sizes[extension] = member.size
            if (limit := limit_of(place, extension)) > 0:
                with reading(path):
                    current.contents[extension] = tar.content(member, limit)
        if current is not None:
            yield current


def text_limit(_: int, extension: str) -> int:
    """The `limit_of` that reads captions and columns, and passes over pictures."""
    return MAX_ROW_BYTES + 1 if extension in _TEXTS else 0


def infer_tar_columns(head: list[Sample]) -> tuple[Column, ...]:
    """Returns the columns of samples: the key, those of their .json, `txt` for their .txt, and `_extra`."""
    objects = []
    for sample in head:
        try:
            objects.append(parse_object(sample.contents[JSON]))
        except (KeyError, BadJson):
            continue  # the row will be bad when it is read
    texts = (TEXT,) if any(TEXT in sample.contents for sample in head) else ()
    own = [column for column in infer_columns(objects) if column.name not in (KEY, *texts)]
    key, *text = (Column(name=name, type="string", kind="text") for name in (KEY, *texts))
    return (key, *own, *text, extra_column())


def tar_chunks(info: FileInfo, span: Span) -> Iterator[Chunk]:
    """Yields the rows of a span of a webdataset tar."""
    return gather(_rows(info, span), info.columns, captions=True, stand_ins=True)


def _rows(info: FileInfo, span: Span) -> Iterator[Good | Fault]:
    # The first samples say what a sample is made of; one that lacks a part is broken, not poor.
    needed = [TEXT] if info.roles.caption == TEXT else []
    if any(column.name not in (KEY, TEXT, EXTRA) for column in info.columns):
        needed.append(JSON)
    found = samples(info.path, info.compression, start=span.start, stop=span.stop, size=info.bytes, limit_of=text_limit)
    if info.compression:
        found = samples(info.path, info.compression, size=info.bytes, limit_of=text_limit)
    with closing(found):
        for sample in found:
            yield _row(sample, info, needed)


def _row(sample: Sample, info: FileInfo, needed: Sequence[str]) -> Good | Fault:
    raw = sample.contents.get(JSON, sample.contents.get(TEXT, sample.key.encode("utf-8", "surrogateescape")))
    if sample.doubled is not None:
        return Fault("duplicate_member", f"sample '{sample.key}' has two members .{sample.doubled}", raw)
    if not sample.contents:
        having = ", ".join(f".{extension}" for extension in sample.sizes)
        hint = "; the members of a sample must follow one another (tar --sort=name)"
        return Fault("no_caption", f"sample '{sample.key}' has neither .txt nor .json, only {having}{hint}", raw)
    for extension, content in sample.contents.items():
        if len(content) > MAX_ROW_BYTES:
            return Fault(
                "oversized",
                f"'{sample.key}.{extension}' has {sample.sizes[extension]} bytes, more than {MAX_ROW_BYTES}",
                raw,
            )
    if missing := [extension for extension in needed if extension not in sample.contents]:
        return Fault(
            "missing_member", f"sample '{sample.key}' has no .{missing[0]}, other samples of the tar have", raw
        )
    try:
        item: dict[str, Any] = parse_object(sample.contents[JSON]) if JSON in sample.contents else {}
        sample.key.encode("utf-8")
        text = sample.contents[TEXT].decode("utf-8") if TEXT in sample.contents else None
    except BadJson as error:
        return Fault(error.error, f"'{sample.key}.json': {error.message}", raw)
    except UnicodeError as error:
        return Fault("invalid_utf8", f"the key or text of sample '{sample.key!r}' is no UTF-8: {error}", raw)
    item |= {KEY: sample.key} | ({TEXT: text} if text is not None else {})
    picture = sample.picture()
    return json_row(item, info.columns, info.roles, raw, f"{sample.key}.{picture}" if picture else None)
