"""Read a tar forwards: its members, and the webdataset samples they belong to.

Python's tarfile takes a corrupt header in the middle for the end of the archive, so a damaged
shard would silently lose its tail. Here every end except a proper one is an error.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

# By the tar format.
_BLOCK = 512
_READ_BYTES = 2**20  # per read: sizes in headers cannot be trusted
# Extended headers of real tars have kilobytes. This program reads them into memory.
_MAX_EXTENSION = 2**20
_MOST_DIGITS = 20  # of a number in a pax header
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_SAMPLE = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar."""

    name: str
    """Path in the tar. Bytes that are not UTF-8 become surrogate escapes."""
    offset: int
    """Offset of the member in the uncompressed stream: of its first header, which may be an
    extended one, or in tars joined with cat, of the zeros before that."""
    content: int
    """Offset of its content in the uncompressed stream."""
    size: int
    """Size of its content in bytes."""

    def sample(self) -> tuple[str, str] | None:
        """Return the sample's key and the lower-case extension, split at the first dot of the file
        name. Return None for a file name without an extension or with a dot in front, which belongs
        to no sample."""
        parts = _SAMPLE.fullmatch(self.name)
        return (parts[1], parts[2].lower()) if parts else None


class BrokenTar(OSError):
    """The archive is corrupt or truncated."""


class TarStream:
    """An iterator over the regular files of a tar. `size` is the length of a seekable stream. It is
    None for a stream that is only read, such as a compressed one."""

    def __init__(self, stream: IO[bytes], *, start: int = 0, size: int | None = None) -> None:
        self._stream = stream
        self._size = size
        self._at = start
        self._unread = 0  # bytes of the current member's content and padding not read yet
        if size is not None:
            stream.seek(start)

    def __iter__(self) -> Iterator[Member]:
        return self

    def __next__(self) -> Member:
        self._skip(self._unread)
        self._unread = 0
        offset = self._at
        name = None
        size = None
        sparse = False
        while True:
            header = self._header()
            if header is None:
                raise StopIteration
            # Extended headers describe the member that follows.
            if header.type in (
                tarfile.GNUTYPE_LONGNAME,
                tarfile.GNUTYPE_LONGLINK,
                tarfile.XHDTYPE,
                tarfile.XGLTYPE,
            ):
                content = self._extension(header)
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
                elif header.type == tarfile.XHDTYPE:
                    records = _pax_records(content)
                    name = records.get("GNU.sparse.name") or records.get("path", name)
                    sparse |= any(key.startswith("GNU.sparse.") for key in records)
                    digits = records.get("size", "")
                    if len(digits) > _MOST_DIGITS:
                        raise BrokenTar(
                            f"no tar header before byte {self._at}: a size of {len(digits)} digits"
                        )
                    size = int(digits) if digits.isdecimal() else size
                continue
            if sparse or header.type == tarfile.GNUTYPE_SPARSE:
                raise BrokenTar(
                    f"'{header.name if name is None else name}' before byte {self._at} is stored as"
                    " a sparse file, which is not supported; make the tar again without --sparse"
                )
            length = header.size if size is None else size
            if header.type in _REGULAR:
                self._unread = length + -length % _BLOCK  # content is padded to whole blocks
                return Member(header.name if name is None else name, offset, self._at, length)
            # Folders, links and devices have no content, whatever size they state. Skip unknown
            # types with theirs.
            self._skip(0 if header.type in tarfile.SUPPORTED_TYPES else length + -length % _BLOCK)
            offset = self._at
            name = None
            size = None

    def content(self, member: Member, limit: int | None = None) -> bytes:
        """Return at most `limit` bytes of the content of the member just returned. Call it at most
        once per member. Raise BrokenTar if the tar ends inside the content."""
        wanted = member.size if limit is None else min(member.size, limit)
        data = self._read(wanted)
        if len(data) < wanted:
            raise BrokenTar(
                f"the tar ends inside the member '{member.name}', at byte {self._at}; fetch or make"
                " it again"
            )
        self._unread -= wanted
        return data

    def _header(self) -> tarfile.TarInfo | None:
        ended = False
        while True:
            at = self._at
            block = self._read(_BLOCK)
            if len(block) < _BLOCK:
                if ended:
                    return None
                what = "without its end marker" if not block else "inside a header"
                raise BrokenTar(
                    f"the tar ends {what}, at byte {at}: its writer was stopped, or the copy is"
                    " truncated"
                )
            if block.strip(b"\0"):
                break
            # Blocks of zeros mark the end, but tars joined with cat continue after them.
            ended = True
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BrokenTar(f"no tar header at byte {at}: {error}") from error
        if header.size < 0:  # a negative size would seek backwards and loop forever
            raise BrokenTar(f"no tar header at byte {at}: a size of {header.size} bytes")
        return header

    def _extension(self, header: tarfile.TarInfo) -> bytes:
        if header.size > _MAX_EXTENSION:
            raise BrokenTar(
                f"an extended header of {header.size} bytes before byte {self._at} is not a header"
            )
        content = self._read(header.size + -header.size % _BLOCK)
        if len(content) < header.size:
            raise BrokenTar(f"the tar ends inside an extended header, at byte {self._at}")
        return content[: header.size]

    def _read(self, count: int) -> bytes:
        parts = []
        while count > 0 and (part := self._stream.read(min(count, _READ_BYTES))):
            parts.append(part)
            self._at += len(part)
            count -= len(part)
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        if self._size is not None:
            if self._at + count > self._size:  # seeking beyond the end raises no error
                raise BrokenTar(
                    f"the tar ends inside a member, at byte {self._size}; fetch or make it again"
                )
            if count:
                self._stream.seek(count, 1)
                self._at += count
            return
        while count > 0:
            part = self._stream.read(min(count, _READ_BYTES))
            if not part:
                raise BrokenTar(
                    f"the tar ends inside a member, at byte {self._at} uncompressed; fetch or make"
                    " it again"
                )
            self._at += len(part)
            count -= len(part)


def _pax_records(content: bytes) -> dict[str, str]:
    """Return the records "length key=value" of a pax header, up to the first malformed one. A value
    ends at a NUL."""
    records: dict[str, str] = {}
    while content:
        length, _, _ = content.partition(b" ")
        if (
            not length.isdigit()
            or len(length) > _MOST_DIGITS
            or not len(length) + 1 < int(length) <= len(content)
        ):
            break
        key, _, value = content[len(length) + 1 : int(length) - 1].partition(b"=")
        value = value.partition(b"\0")[0]
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        content = content[int(length) :]
    return records
