"""Samples of webdataset tars: consecutive members with the same path up to the first dot of the
name."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, islice, pairwise

from open_diht.common.image_formats import EXTENSIONS
from open_diht.common.naming import listing
from open_diht.common.tar_stream import TarStream
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests.files import guarded, open_stream, reading
from open_diht.pipelines.manifests.formats.base import (
    Fault,
    Format,
    Good,
    check_plain,
    gather,
    register_format,
    until_broken,
)
from open_diht.pipelines.manifests.formats.jsonl import (
    EXTRA_COLUMN,
    BadJson,
    infer_columns,
    json_row,
    parse_object,
)
from open_diht.pipelines.manifests.images import ImageOrMissing, MissingImage, too_large
from open_diht.pipelines.manifests.schema import resolve_roles
from open_diht.pipelines.manifests.types import (
    MAX_ROW_BYTES,
    BadSchema,
    Chunk,
    Column,
    Compression,
    FileInfo,
    Span,
    UnreadableFile,
)
from open_diht.pipelines.store.storage import Row

KEY = "__key__"
TEXT = "txt"
JSON = "json"
"""Column of the sample's key; member and column of its caption; member with its other columns."""
_TEXTS = (TEXT, JSON)
_HEAD_SAMPLES = 100
"""Number of samples from which columns and images are found. Images lie between their texts, so
more samples would mean reading much of a tar."""
_ORDER_SAMPLES = 2_000
"""Most samples whose headers are read to learn why the first ones lack members."""
_SORTED = "tar --sort=name -cf NEW.tar -C FOLDER ."


@register_format
class Webdataset(Format):
    """Tars whose members are captions, columns and images."""

    name = "webdataset"
    version = 3
    endings = (".tar", ".tgz")

    def starts(self, head: bytes) -> bool:
        return head[257:262] == b"ustar"

    def check(self, path: str, head: bytes, compression: Compression) -> None:
        if not compression:
            check_plain(path, head, self.name)

    def look(self, path: str, size: int, compression: Compression, dataset: Dataset) -> FileInfo:
        def limit_of(place: int, extension: str) -> int:
            return _text_limit(place, extension) if place <= _HEAD_SAMPLES else 0

        found = samples(path, compression, size=size, limit_of=limit_of)
        with closing(found):
            head = list(until_broken(islice(found, _HEAD_SAMPLES + 1)))
            if not head:
                message = "the tar has no members named <key>.<extension>"
                raise UnreadableFile(path, "EmptyTar", message)
            if not any(sample.contents for sample in head):
                having = listing(
                    sorted({f".{extension}" for sample in head for extension in sample.sizes})
                )
                raise BadSchema(
                    f"{path}: the tar holds no captions: its first {len(head)} samples have only"
                    f" members {having}. A sample needs <key>.txt with its caption, or <key>.json"
                    " with a field for it, next to its image; if the tar has them further on, sort"
                    f" its members: {_SORTED}"
                )
            if (
                sum(not sample.contents or sample.image() is None for sample in head)
                > len(head) / 2
            ):
                _check_order(path, until_broken(islice(chain(head, found), _ORDER_SAMPLES)))
        columns = _columns_of(head)
        images = any(sample.image() is not None for sample in head)
        roles = resolve_roles(columns, dataset, path, images=images)
        if images and dataset.roles.image_path is None:
            # A path in the .json is only the member's origin.
            roles = replace(roles, image_path=None)
        return FileInfo(
            path=path,
            format=self.name,
            compression=compression,
            columns=columns,
            roles=roles,
            rows=None,
            bytes=size,
            row_bytes=(
                (head[-1].offset - head[0].offset) / (len(head) - 1)
                if len(head) > 1
                else float(size)
            ),
            images=images or roles.image_path is not None,
        )

    def chunks(
        self, info: FileInfo, span: Span, dataset: Dataset, *, images: bool
    ) -> Iterator[Chunk]:
        return gather(_rows(info, span), info.columns, captions=True, stand_ins=True)

    def split(self, info: FileInfo, unit_rows: int) -> list[Span]:
        if info.compression or info.estimated_rows <= unit_rows:
            return [self.whole(info)]
        cuts = [0]
        count = 0
        broken = False
        found = samples(info.path, "", size=info.bytes, limit_of=lambda _place, _extension: 0)
        with closing(found):
            try:
                for sample in found:
                    if count and count % unit_rows == 0:
                        cuts.append(sample.offset)
                    count += 1
            except UnreadableFile:
                # The last span extends to the end of the file, so that reading it meets the damage
                # and reports it.
                broken = True
        edges = [*cuts, info.bytes]
        rows = [unit_rows] * (len(cuts) - 1) + [count - unit_rows * (len(cuts) - 1)]
        last = len(cuts) - 1
        return [
            Span(
                path=info.path,
                format=self.name,
                start=start,
                stop=stop,
                rows=rows[index],
                exact=not (broken and index == last),
            )
            for index, (start, stop) in enumerate(pairwise(edges))
        ]

    def images(
        self, info: FileInfo, span: Span, dataset: Dataset, wanted: list[int], max_bytes: int
    ) -> Iterator[tuple[int, ImageOrMissing]]:
        if info.roles.image_path is not None:
            return super().images(info, span, dataset, wanted, max_bytes)
        return _members(info, span, wanted, max_bytes)


@dataclass(kw_only=True)
class Sample:
    key: str
    """Path of the members up to the first dot of the name."""
    offset: int
    """Offset of the first header's first byte in the uncompressed tar."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Member sizes in bytes, by extension (lower case, without the first dot)."""
    contents: dict[str, bytes] = field(default_factory=dict)
    """Contents of the requested members, cut at the limit, by extension."""
    doubled: str | None = None
    """An extension that occurs twice."""

    def image(self) -> str | None:
        """Return the extension of the image member, or None."""
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
    """Yield the samples that begin in [start, stop) of a tar of `size` bytes; `start` must be 0 if
    the tar is compressed. `limit_of` maps a sample's index (from 0) and an extension to the number
    of bytes of that member to read; 0 skips it. For a damaged tar, yield all samples before the
    damage but the last, then raise UnreadableFile.
    """
    with reading(path):
        stream = open_stream(path, compression)
    with stream:
        tar = TarStream(stream, start=start, size=None if compression else size)
        current: Sample | None = None
        place = -1
        for member in guarded(path, tar):
            if (parts := member.sample()) is None:
                continue
            key, extension = parts
            if current is None or key != current.key:  # another key ends the current sample
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


def _check_order(path: str, found: Iterable[Sample]) -> None:
    """Raise BadSchema if the members of a sample are not next to each other, as in a tar of an
    unsorted folder, because each member would then count as a sample."""
    seen: dict[str, set[str]] = {}
    for sample in found:
        known = seen.setdefault(sample.key, set())
        if known and known.isdisjoint(sample.sizes):
            # Otherwise the tars were joined, and this is another sample with the same key.
            raise BadSchema(
                f"{path}: the members of a sample are not next to each other: those of other"
                f" samples lie between '{sample.key}.{min(known)}' and"
                f" '{sample.key}.{min(sample.sizes)}'. Sort them: {_SORTED}"
            )
        known.update(sample.sizes)


def _text_limit(_: int, extension: str) -> int:
    """Return how many bytes of a member to read: captions and columns, but not images."""
    return MAX_ROW_BYTES + 1 if extension in _TEXTS else 0


def _columns_of(head: list[Sample]) -> tuple[Column, ...]:
    """Return the columns of samples: the key, the columns of the .json, `txt` for the .txt, and
    `_extra`."""
    objects = []
    for sample in head:
        try:
            objects.append(parse_object(sample.contents[JSON]))
        except (KeyError, BadJson):
            continue  # there is no .json, or reading will report the row as bad
    texts = (TEXT,) if any(TEXT in sample.contents for sample in head) else ()
    own = [column for column in infer_columns(objects) if column.name not in (KEY, *texts)]
    key, *text = (Column(name=name, type="string", kind="text") for name in (KEY, *texts))
    return (key, *own, *text, EXTRA_COLUMN)


def _rows(info: FileInfo, span: Span) -> Iterator[Good | Fault]:
    stop = None if info.compression else span.stop
    found = samples(
        info.path,
        info.compression,
        start=span.start,
        stop=stop,
        size=info.bytes,
        limit_of=_text_limit,
    )
    with closing(found):
        for sample in found:
            yield _row(sample, info)


def _row(sample: Sample, info: FileInfo) -> Good | Fault:
    raw = sample.contents.get(
        JSON, sample.contents.get(TEXT, sample.key.encode("utf-8", "surrogateescape"))
    )
    if sample.doubled is not None:
        return Fault(
            "duplicate_member", f"sample '{sample.key}' has two members .{sample.doubled}", raw
        )
    if not sample.contents:
        having = ", ".join(f".{extension}" for extension in sample.sizes)
        hint = "; the members of a sample must follow one another (tar --sort=name)"
        return Fault(
            "no_caption",
            f"sample '{sample.key}' has neither .txt nor .json, only {having}{hint}",
            raw,
        )
    for extension, content in sample.contents.items():
        if len(content) > MAX_ROW_BYTES:
            return Fault(
                "oversized",
                f"'{sample.key}.{extension}' has {sample.sizes[extension]} bytes, more than"
                f" {MAX_ROW_BYTES}",
                raw,
            )
    try:
        item: Row = parse_object(sample.contents[JSON]) if JSON in sample.contents else {}
        sample.key.encode("utf-8")
        text = sample.contents[TEXT].decode("utf-8") if TEXT in sample.contents else None
    except BadJson as error:
        return Fault(error.error, f"'{sample.key}.json': {error.message}", raw)
    except UnicodeError as error:
        return Fault(
            "invalid_utf8", f"the key or text of sample '{sample.key!r}' is not UTF-8: {error}", raw
        )
    item |= {KEY: sample.key} | ({TEXT: text} if text is not None else {})
    if text is not None and JSON not in sample.contents and info.roles.caption is not None:
        item[info.roles.caption] = text
    elif info.roles.caption == TEXT and TEXT not in item:
        message = (
            f"sample '{sample.key}' has no .{TEXT}, which other samples have, and no field '{TEXT}'"
            f" in its .{JSON}"
        )
        return Fault("missing_member", message, raw)
    image = sample.image()
    return json_row(item, info.columns, info.roles, raw, f"{sample.key}.{image}" if image else None)


def _members(
    info: FileInfo, span: Span, wanted: list[int], max_bytes: int
) -> Iterator[tuple[int, ImageOrMissing]]:
    rest = set(wanted)

    def limit_of(place: int, extension: str) -> int:
        return max_bytes + 1 if place in rest and extension in EXTENSIONS else 0

    stop = None if info.compression else span.stop
    found = samples(
        info.path, info.compression, start=span.start, stop=stop, size=info.bytes, limit_of=limit_of
    )
    with closing(found):
        for place, sample in enumerate(found):
            if place not in rest:
                continue
            rest.discard(place)
            extension = sample.image()
            if extension is None:
                yield (
                    place,
                    MissingImage(
                        reason="image_missing", message=f"sample '{sample.key}' has no image member"
                    ),
                )
            elif sample.sizes[extension] > max_bytes:
                yield (
                    place,
                    too_large(f"'{sample.key}.{extension}'", sample.sizes[extension], max_bytes),
                )
            else:
                yield place, sample.contents[extension]
            if not rest:
                return
