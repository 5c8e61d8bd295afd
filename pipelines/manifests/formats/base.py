"""The interface of a manifest format, and the registry of formats.

To add a format, register a class that extends `Format`, or `LineFormat` for a format that consists
of lines.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from open_diht.common.naming import nearest
from open_diht.common.plugins import Registry, same_class
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests.batches import batches
from open_diht.pipelines.manifests.files import read_part, reading
from open_diht.pipelines.manifests.images import (
    ImageOrMissing,
    MissingImage,
    image_folders,
    read_image_file,
)
from open_diht.pipelines.manifests.types import (
    MAX_RAW_BYTES,
    BadReason,
    BadRow,
    BadSchema,
    Chunk,
    Column,
    Compression,
    FileInfo,
    Span,
    UnreadableFile,
)

_COMPRESSED_ENDINGS = (".gz", ".zst", ".zstd", ".bz2")
_PACKED_ENDINGS = (*_COMPRESSED_ENDINGS, ".tgz")
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
# The signature that is farthest from the beginning, that of tars, ends at byte 262.
_MAGIC_BYTES = 512
UTF16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-16."""
IN_UTF16 = "convert it: iconv -f UTF-16 -t UTF-8 in > out"
# A chunk ends at whichever limit comes first: rows have tens of bytes, or megabytes.
_CHUNK_ROWS = 1024
_CHUNK_BYTES = 32 * 2**20
_BATCH_ROWS = 1000
_ARROW = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
_T = TypeVar("_T")


class Format(ABC):
    """A way in which the rows of a manifest are written."""

    name: ClassVar[str]
    """Name that users type and that plans record."""
    endings: ClassVar[tuple[str, ...]] = ()
    """File extensions, lower case, with the dot. Names lose .gz, .zst, .zstd and .bz2 before the
    comparison."""
    version: ClassVar[int] = 1
    """Increase the version when inspecting the same file gives another result. Older inspections
    are then discarded."""

    def starts(self, head: bytes) -> bool:
        """Return whether a file certainly has this format.

        It is called only if neither the data set nor the file's name tells the format.

        Args:
            head: the first 512 bytes of the file, as stored.

        Returns:
            True if no other format begins like this.
        """
        return False

    # Not abstract, because not all formats can tell.
    def check(self, path: str, head: bytes, compression: Compression) -> None:  # noqa: B027
        """Check the first bytes of a file.

        Args:
            path: the file, for messages.
            head: its first bytes as stored.
            compression: how the file is compressed.

        Raises:
            UnreadableFile: they show that the file does not have this format.
        """

    @abstractmethod
    def look(self, path: str, size: int, compression: Compression, dataset: Dataset) -> FileInfo:
        """Inspect the beginning or footer of a file: columns, roles, and rows if cheap.

        Args:
            path: the file.
            size: its size in bytes.
            compression: how the file is compressed.
            dataset: how its rows are read.

        Returns:
            The description of the file that the plan stores.

        Raises:
            UnreadableFile: empty, damaged, or not what its name says.
            BadSchema: columns are missing, ambiguous, repeated, too many or of the wrong type, or
                the first rows do not have the format.
            Unreachable: a store does not answer.
        """

    @abstractmethod
    def chunks(
        self, info: FileInfo, span: Span, dataset: Dataset, *, images: bool
    ) -> Iterator[Chunk]:
        """Yield the rows of a span in order, each once, as good or bad, in bounded memory.

        Args:
            info: the file.
            span: the part of it to read.
            dataset: how its rows are read.
            images: whether to include the column of image bytes, if the format has one.

        Yields:
            Consecutive rows, with the indices that they have in the span.

        Raises:
            UnreadableFile: the file cannot be opened or is damaged; the rows read before are
                yielded first.
            Unreachable: a store does not answer.
        """

    def whole(self, info: FileInfo) -> Span:
        """Return the span of all rows of a file.

        Args:
            info: the file.

        Returns:
            One span that covers the file.
        """
        rows = info.estimated_rows
        return Span(
            path=info.path,
            format=self.name,
            start=0,
            stop=info.bytes,
            rows=rows,
            exact=info.rows is not None,
        )

    def split(self, info: FileInfo, unit_rows: int) -> list[Span]:
        """Return the spans of a file that has rows, in order. The same file and `unit_rows` always
        give the same spans.

        Args:
            info: the file.
            unit_rows: approximate rows of a span.

        Returns:
            The spans. This default returns one span, for formats in which row boundaries cannot be
            located.
        """
        return [self.whole(info)]

    def images(
        self, info: FileInfo, span: Span, dataset: Dataset, wanted: list[int], max_bytes: int
    ) -> Iterator[tuple[int, ImageOrMissing]]:
        """Yield the images of chosen rows. This default reads files whose paths are in a column.

        Args:
            info: the file.
            span: the part of it in which ordinals are counted.
            dataset: how its rows are read.
            wanted: ordinals of the rows, ascending.
            max_bytes: most bytes of an image.

        Yields:
            The ordinal of each row, and its image file as stored, not decoded, or the reason why
            there is none.

        Raises:
            UnreadableFile: the manifest cannot be opened or is damaged.
            Unreachable: a store does not answer.
        """
        folders = image_folders(info.path, dataset)
        rest = set(wanted)
        chunks = self.chunks(info, span, dataset, images=False)
        with closing(batches(chunks, info.roles, _BATCH_ROWS)) as found:
            for batch in found:
                paths = batch.table.column(info.roles.image_path).to_pylist()
                here: dict[int, MissingImage | str | None] = dict(
                    zip(batch.ordinals.tolist(), paths, strict=True)
                )
                here |= {
                    row.ordinal: MissingImage(
                        reason="image_not_available", message=f"the row is broken: {row.message}"
                    )
                    for row in batch.bad
                }
                for ordinal in sorted(rest & here.keys()):
                    given = here[ordinal]
                    image = (
                        given
                        if isinstance(given, MissingImage)
                        else read_image_file(given, folders, max_bytes)
                    )
                    yield ordinal, image
                rest -= here.keys()
                if not rest:
                    return


_Kind = TypeVar("_Kind", bound=type[Format])
_registered: Registry[Format] = Registry("name {name!r} of {new} belongs to {old}; choose another")


def register_format(kind: _Kind) -> _Kind:
    """Register a format under its name and extensions. Use it as a decorator.

    Raises:
        TypeError, AttributeError: the class lacks a method, or a name.
        ValueError: its name is invalid, or another format has the same name or extension.
    """
    if inspect.isabstract(kind):
        raise TypeError(
            f"format {kind.__name__} lacks {', '.join(sorted(kind.__abstractmethods__))}"
        )
    name = kind.name
    if not (name.isidentifier() and name == name.lower()) or name == "auto":
        raise ValueError(
            f"{kind.__name__}: name {name!r}; use lower case letters, digits, underscores, no digit"
            " first; not auto"
        )
    for known in _registered.values():
        for ending in kind.endings:
            if ending in known.endings and not same_class(kind, type(known)):
                raise ValueError(
                    f"ending {ending!r} of {kind.__name__} belongs to {type(known).__name__};"
                    " choose another"
                )
    _registered.add(name, kind())
    return kind


def format_names() -> tuple[str, ...]:
    """Return the names of the registered formats."""
    return tuple(_registered)


def format_named(name: str) -> Format:
    """Return the format with a name. Raise BadSchema if there is none."""
    if name not in _registered:
        names = format_names()
        raise BadSchema(
            f"unknown format '{name}'{nearest(name, names)}; known: {', '.join(names)}. For a"
            " format of your own, name its module with --plugin"
        )
    return _registered[name]


def known_endings() -> tuple[str, ...]:
    """Return the file extensions that identify a format."""
    return tuple(ending for known in _registered.values() for ending in known.endings)


def versions() -> tuple[tuple[str, int], ...]:
    """Return the name and version of each format."""
    return tuple((name, known.version) for name, known in _registered.items())


def format_of_name(path: str) -> Format | None:
    """Return the format that a file name's extension identifies. Return None if it identifies
    none."""
    name = path.lower()
    for ending in _COMPRESSED_ENDINGS:
        name = name.removesuffix(ending)
    return next(
        (known for known in _registered.values() if known.endings and name.endswith(known.endings)),
        None,
    )


def detect(path: str, dataset: Dataset) -> tuple[Format, Compression]:
    """Return the format and compression of a file. `dataset.format` decides unless it is auto.
    Raise UnreadableFile if the file cannot be opened, or its first bytes contradict the name or
    format (a web page, UTF-16, another kind of file). Raise BadSchema if neither data set, name nor
    first bytes tell a known format."""
    with reading(path):
        head = read_part(path, 0, _MAGIC_BYTES)
    compression: Compression = next(
        (name for magic, name in _MAGIC.items() if head.startswith(magic)), ""
    )
    format = _format(path, dataset, head)
    if not compression and path.lower().endswith(_PACKED_ENDINGS):
        raise UnreadableFile(
            path,
            "NotCompressed",
            f"the name says compressed, but the file starts with {head[:16]!r}{hint(head)}",
        )
    format.check(path, head, compression)
    return format, compression


def _format(path: str, dataset: Dataset, head: bytes) -> Format:
    if dataset.format != "auto":
        return format_named(dataset.format)
    named = format_of_name(path) or next(
        (known for known in _registered.values() if known.starts(head)), None
    )
    if named is None:
        raise BadSchema(
            f"{path}: neither the name nor the first bytes ({head[:16]!r}) tell the format; pass"
            f" --format, one of {', '.join(format_names())}"
        )
    return named


def check_plain(path: str, head: bytes, name: str) -> None:
    """Raise UnreadableFile if a file, read as the format `name`, is UTF-16 (with byte order mark)
    or Parquet."""
    if head.startswith(UTF16):
        raise UnreadableFile(path, "NotUtf8", f"the file is UTF-16; {IN_UTF16}")
    if head.startswith(b"PAR1"):
        raise UnreadableFile(
            path,
            "NotAManifest",
            f"the file is Parquet, but read as {name}; name it .parquet or pass --format parquet",
        )


def hint(head: bytes) -> str:
    """Return the kind of file that may begin like this, as the end of a message. Return "" if it is
    unknown."""
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return " (a web page: a download that failed?)"
    if start.startswith(b"version https://git-lfs"):
        return " (a Git LFS pointer: fetch the file itself with git lfs pull)"
    return ""


@dataclass(frozen=True, slots=True)
class Good:
    """A row that was read. Not keyword-only, since millions are created."""

    cells: Sequence[Any]
    """One value per column."""
    size: int
    """Approximate bytes in memory."""
    caption: str | None = None
    """See Chunk.captions."""
    stand_in: str | None = None
    """See Chunk.stand_ins."""
    several: list[str | None] = field(default_factory=list)
    """See Chunk.several."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that could not be read."""

    error: BadReason
    message: str
    raw: bytes


def gather(
    rows: Iterator[Good | Fault],
    columns: Sequence[Column],
    *,
    captions: bool = False,
    stand_ins: bool = False,
) -> Iterator[Chunk]:
    """Yield the rows of a span, numbered from 0, in chunks bounded in rows and bytes. `columns` are
    those of `Good.cells`; the flags say which other fields of `Good` to use. Rows before an
    UnreadableFile are yielded first.
    """
    ordinal = 0
    broken = None
    while broken is None:
        good: list[Good] = []
        ordinals: list[int] = []
        bad: list[BadRow] = []
        size = 0
        while len(good) + len(bad) < _CHUNK_ROWS and size < _CHUNK_BYTES:
            try:
                row = next(rows, None)
            except UnreadableFile as error:
                broken = error
                break
            if row is None:
                break
            if isinstance(row, Good):
                good.append(row)
                ordinals.append(ordinal)
                size += row.size
            else:
                raw = row.raw[:MAX_RAW_BYTES]
                bad.append(BadRow(ordinal=ordinal, error=row.error, message=row.message, raw=raw))
                size += len(raw)
            ordinal += 1
        if not good and not bad:
            break
        by_column = (
            list(zip(*(row.cells for row in good), strict=True)) if good else [()] * len(columns)
        )
        arrays = [
            pa.array(values, type=_ARROW[column.type])
            for values, column in zip(by_column, columns, strict=True)
        ]
        yield Chunk(
            ordinals=ordinals,
            table=pa.Table.from_arrays(arrays, names=[column.name for column in columns]),
            bad=bad,
            captions=[row.caption for row in good] if captions else None,
            several=[row.several for row in good] if captions else None,
            stand_ins=[row.stand_in for row in good] if stand_ins else None,
        )
    if broken is not None:
        raise broken


def until_broken(items: Iterator[_T]) -> Iterator[_T]:
    """Yield the items before an UnreadableFile. Raise it only if there are no items, since reading
    meets it again."""
    seen = False
    try:
        for item in items:
            seen = True
            yield item
    except UnreadableFile:
        if not seen:
            raise
