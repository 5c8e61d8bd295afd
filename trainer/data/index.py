"""Where the samples stand in a tar: read once, kept, so that any sample can be read without those before it.

An index is made by reading a shard from end to end: offsets and sizes of images and captions, hashes of both (for the
split and for duplicate captions), and the tar's SHA-256, which is compared with the manifest of `make filter`. It also
finds what is wrong with a shard before training does.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from common.files import published
from common.image_formats import EXTENSIONS
from common.tar_stream import BrokenTar, TarStream
from trainer.data.errors import Kind, ShardMismatch
from trainer.old_words import KINDS

VERSION = 1
IMAGES = (*EXTENSIONS, "bin")
"""Endings of images; `bin` is what early shards of `make filter` call a format without an ending."""
CAPTION = "txt"
_FIELDS = [
    ("image_at", "<i8"),
    ("image_size", "<i8"),
    ("caption_at", "<i8"),
    ("caption_size", "<i8"),
    ("image_hash", "<u8"),
    ("caption_hash", "<i8"),
]
_MOST_PROBLEMS = 20  # named per shard; all are counted


@dataclass
class ShardIndex:
    """The samples of one tar, in its order."""

    name: str
    """File name of the tar."""
    bytes: int
    sha256: str
    stamp: str
    """What the file system says about the file; another one means that it has to be read anew."""
    rows: npt.NDArray[Any]
    """Structured array of `_FIELDS`: byte ranges in the tar, 64-bit hashes of the bytes."""
    keys: list[str]
    bad: dict[str, int] = field(default_factory=dict)
    """Kind to count of what is not in `rows`."""
    problems: list[str] = field(default_factory=list)
    """The first few of them in words."""


@dataclass
class _Group:
    """The members of one key."""

    key: str
    image: tuple[int, int, int] | None = None  # offset, size, hash
    caption: tuple[int, int, int] | None = None


def hash64(content: bytes) -> int:
    """64 bits of BLAKE2b, unsigned."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def caption_hash(caption: bytes) -> int:
    """Signed 64 bits, equal for captions that differ only in white space at their ends."""
    return hash64(caption.strip()) - 2**63


class _Hashed:
    """A stream that is hashed while it is read."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._sha = stream, hashlib.sha256()
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._sha.update(content)
        self.bytes += len(content)
        return content

    def finish(self) -> str:
        """Read what is left; the SHA-256 of everything."""
        while self.read(2**20):
            pass
        return self._sha.hexdigest()


def scan(name: str, stream: IO[bytes], stamp: str = "") -> ShardIndex:
    """Index a tar from its beginning, with one pass over its bytes. Never fails for what the tar holds: that is
    counted in `bad`."""
    hashed = _Hashed(stream)
    rows: list[tuple[int, ...]] = []
    keys: list[str] = []
    bad: Counter[str] = Counter()
    problems: list[str] = []

    def report(kind: Kind, what: str) -> None:
        bad[kind] += 1
        if len(problems) < _MOST_PROBLEMS:
            problems.append(f"{name}: {kind}: {what}")

    seen: set[str] = set()
    for item in _groups(hashed, report):
        if item.key in seen:
            report(Kind.DUPLICATE_KEY, item.key)
            continue
        seen.add(item.key)
        if item.image is None:
            report(Kind.MISSING_IMAGE, item.key)
        elif item.caption is None:
            report(Kind.MISSING_CAPTION, item.key)
        else:
            rows.append((*item.image[:2], *item.caption[:2], item.image[2], item.caption[2]))
            keys.append(item.key)
    sha256 = hashed.finish()
    return ShardIndex(name, hashed.bytes, sha256, stamp, np.array(rows, dtype=_FIELDS), keys, {**bad}, problems)


def _groups(stream: _Hashed, report: Callable[[Kind, str], None]) -> Iterator[_Group]:
    """Consecutive members of one key, as webdataset groups them."""
    group: _Group | None = None
    tar = TarStream(stream)  # type: ignore[arg-type]  # it is only read from
    try:
        for member in tar:
            if (parts := member.sample()) is None:
                continue
            key, extension = parts
            if group is None or group.key != key:
                if group is not None:
                    yield group
                group = _Group(key)
            if extension in IMAGES and group.image is None:
                group.image = (member.content, member.size, hash64(tar.content(member)))
            elif extension == CAPTION and group.caption is None:
                content = tar.content(member)
                if content.strip():
                    group.caption = (member.content, member.size, caption_hash(content))
    except BrokenTar as error:
        if not stream.bytes:
            report(Kind.EMPTY_TAR, "0 bytes")
        elif group is None:
            report(Kind.NOT_A_TAR, str(error))
        else:
            report(Kind.TRUNCATED_TAR, f"after {group.key}: {error}")
            if group.image is None or group.caption is None:
                return  # cut in the middle of a sample: that is what the line above counts
    if group is not None:
        yield group


def save(index: ShardIndex, path: Path) -> None:
    """Publish an index: complete, or not there."""
    about = {key: value for key, value in asdict(index).items() if key not in ("rows", "keys")}
    about["version"] = VERSION
    with published(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            keys=np.frombuffer("\n".join(index.keys).encode("utf-8", "surrogateescape"), np.uint8),
            rows=index.rows,
        )


def load(path: Path | IO[bytes]) -> ShardIndex:
    """A kept index.

    Raises:
        ShardMismatch: it has gone or cannot be read.
    """
    try:
        with np.load(path) as content:
            about = _about(content)
            about["bad"] = {KINDS.get(kind, kind): count for kind, count in about["bad"].items()}
            keys = content["keys"].tobytes().decode("utf-8", "surrogateescape")
            rows = content["rows"].view(_FIELDS)  # an earlier version called the same fields otherwise
            return ShardIndex(**about, rows=rows, keys=keys.split("\n") if keys else [])
    except _UNREADABLE as error:
        raise ShardMismatch(f"the index {path} cannot be read ({error}); start again, and it is made anew") from error


def is_current(path: Path, stamp: str) -> bool:
    """Whether there is an index of this version for a file with that stamp."""
    try:
        with np.load(path) as content:
            return bool(_about(content)["stamp"] == stamp)
    except _UNREADABLE:
        return False


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


def _about(content: Any) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(content["about"].tobytes())
    if about.pop("version") != VERSION:
        raise ValueError("of another version of this program")
    return about
