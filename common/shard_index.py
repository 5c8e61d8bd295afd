"""Index of a shard, which is a webdataset tar. It is usually stored next to the shard in `.index/`;
with it any sample can be read without reading those before it.

Building an index reads the shard from end to end. It records offsets and sizes of images, captions
and JSON, hashes of images and captions, uids, and the tar's SHA-256. It also detects defects of a
shard before it is used. Stage `export` writes an index with each shard. Training builds missing
ones, except those of `--export index` and of `make select`.
"""

import hashlib
import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import IO, Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from open_diht.common import npz
from open_diht.common.files import published
from open_diht.common.image_formats import EXTENSIONS
from open_diht.common.tar_stream import BrokenTar, TarStream

VERSION = 2
"""Training rebuilds indexes of other versions, except those of `--export index` and of `make
select`."""
FOLDER = ".index"
"""Folder of the indexes, next to the shards."""
IMAGES = (*EXTENSIONS, "bin")
"""Endings of images, by priority: if a sample has several, the first counts. Early shards of
`make filter` use `bin` for formats without an ending."""
CAPTION = "txt"
JSON = "json"
_FIELDS = [
    ("image_at", "<i8"),
    ("image_size", "<i8"),
    ("caption_at", "<i8"),
    ("caption_size", "<i8"),
    ("image_hash", "<u8"),
    ("caption_hash", "<i8"),
    ("json_at", "<i8"),  # 0: the sample has none
    ("json_size", "<i8"),
    ("uid_high", "<u8"),  # both 0: the sample has no uid of 32 hex digits
    ("uid_low", "<u8"),
]
UID_PAIR = np.dtype("<u8,<u8")
"""A uid as two unsigned 64-bit numbers, as in DataComp's subsets."""
_UID = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)
_UID_OF_KEY = re.compile(r"(?:.*/)?([0-9a-f]{32})(?:-[0-9]+)?", re.IGNORECASE | re.DOTALL)
_MOST_PROBLEMS = 20  # listed per shard; all are counted


class Defect(StrEnum):
    """A defect of a shard or of a sample. The index omits defective samples."""

    EMPTY_TAR = "empty_tar"  # a shard of zero bytes
    TRUNCATED_TAR = (  # a shard whose end is missing or corrupt; the part before is used
        "truncated_tar"
    )
    # The file is no shard in spite of its name, or it is corrupt or truncated before the first
    # sample.
    NOT_A_TAR = "not_a_tar"
    DUPLICATE_KEY = "duplicate_key"  # a key that occurred before in its shard; the first counts
    MISSING_IMAGE = "missing_image"  # a key without an image
    MISSING_CAPTION = "missing_caption"  # a key without .txt, or with a blank one


class Shard(TypedDict):
    """A shard in a manifest.json of `make filter`, or in the commit record of stage `export`."""

    shard: str
    """File name."""
    rows: int
    """Number of survivors."""
    samples: int
    """Number of survivors that training can read."""
    sha256: str
    path: NotRequired[str]
    """Path of the tar, if it is a tar of the input."""
    left_out: NotRequired[dict[str, int]]
    """Number of survivors that are not in the index of a tar of the input, by reason."""


class IndexCounts(TypedDict):
    """Counts of an export that indexes the input's tars. Other exports have none."""

    shards: NotRequired[int]  # number of tars
    samples: NotRequired[int]  # number of indexed survivors
    left_out: NotRequired[dict[str, int]]  # number of other survivors by reason


class BadIndex(RuntimeError):
    """An index is missing or cannot be read."""


@dataclass
class ShardIndex:
    """The samples of a tar, in its order."""

    name: str
    """File name of the tar."""
    bytes: int
    sha256: str
    stamp: str
    """Stamp of the file, see `stamp_of`. A remote tar has the stamp that its store states, or
    ""."""
    rows: npt.NDArray[Any]
    """Structured array of `_FIELDS`: byte ranges in the tar, 64-bit hashes, uids in two halves."""
    keys: list[str]
    bad: dict[str, int] = field(default_factory=dict)
    """Number of defects by kind."""
    problems: list[str] = field(default_factory=list)
    """Descriptions of the first few defects."""
    version: int = VERSION
    part: str = ""
    """Hash of the listed samples if only some are listed, otherwise "". See `part_of`."""
    starts: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """Offset of the first header of every sample, including samples in `bad`, but not an incomplete
    one at the end of a truncated tar. It is empty for a part."""

    @property
    def identity(self) -> str:
        """The SHA-256 of the tar. For a part of it, a hash of that SHA-256 and of the listed
        samples."""
        return (
            hashlib.sha256(f"{self.sha256} {self.part}".encode()).hexdigest()
            if self.part
            else self.sha256
        )

    @property
    def places_samples(self) -> bool:
        """Return whether `rows_between` can be called, which is impossible for a part."""
        return not self.part

    def rows_between(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the rows of all samples that begin in a byte range of the tar, in order:
        (samples,) indices into `rows`, or -1 for samples that `rows` lacks."""
        first, last = np.searchsorted(self.starts, [start, stop])
        # Sample number of each row.
        numbers = np.searchsorted(self.starts, self.rows["image_at"], side="right") - 1
        here = np.flatnonzero((numbers >= first) & (numbers < last))
        found = np.full(last - first, -1, np.int64)
        found[numbers[here] - first] = here
        return found


@dataclass
class _Group:
    """Consecutive members of a tar with one key."""

    key: str
    start: int
    image: tuple[int, int, int] | None = None  # offset, size, hash
    ending: str = ""
    caption: tuple[int, int, int] | None = None
    json: tuple[int, int] = (0, 0)
    uid: str = ""


def place_beside(name: str) -> PurePosixPath:
    """Return the path of a shard's index, relative to the shard's folder."""
    return PurePosixPath(FOLDER) / f"{name}.npz"


def stamp_of(path: Path) -> str:
    """Return a stamp that changes with a local file: its size and modification time. Raise OSError
    if it is missing."""
    state = os.stat(path)
    return f"{state.st_size}-{state.st_mtime_ns}"


def uid_of_key(key: str) -> str:
    """Return the uid of 32 hex digits in a key [folder/]uid[-number], or "" for other keys."""
    found = _UID_OF_KEY.fullmatch(key)
    return found[1] if found else ""


def halves(uid: str) -> tuple[int, int]:
    """Return a uid of 32 hex digits as two unsigned 64-bit numbers, as in DataComp's subsets.
    Return (0, 0) for ""."""
    return int(uid[:16] or "0", 16), int(uid[16:] or "0", 16)


def uid_pairs(uids: Iterable[str]) -> npt.NDArray[Any]:
    """Return uids of 32 hex digits as `UID_PAIR`, (n,)."""
    return np.frombuffer(bytes.fromhex("".join(uids)), ">u8").astype("<u8").view(UID_PAIR)


def hash64(content: bytes) -> int:
    """Return a 64-bit BLAKE2b hash, unsigned."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def packed_keys(keys: Iterable[str]) -> npt.NDArray[np.uint8]:
    """Return keys as bytes, one on each line. A line end in a key becomes NUL, which no name in a
    tar has."""
    return np.frombuffer(
        "\n".join(key.replace("\n", "\0") for key in keys).encode("utf-8", "surrogateescape"),
        np.uint8,
    )


def unpacked_keys(content: npt.NDArray[np.uint8]) -> list[str]:
    """Return the keys that `packed_keys` packed."""
    text = content.tobytes().decode("utf-8", "surrogateescape")
    return [key.replace("\0", "\n") for key in text.split("\n")] if text else []


def caption_hash(caption: bytes) -> int:
    """Return a signed 64-bit hash that ignores ASCII white space at both ends of a caption."""
    return hash64(caption.strip()) - 2**63


class _Hashed:
    """A stream that hashes the bytes read from it."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream
        self._sha = hashlib.sha256()
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._sha.update(content)
        self.bytes += len(content)
        return content

    def finish(self) -> str:
        """Read the rest, and return the SHA-256 of the whole stream."""
        while self.read(2**20):
            pass
        return self._sha.hexdigest()


def scan(name: str, stream: IO[bytes], stamp: str = "") -> ShardIndex:
    """Index a tar in one pass, with the stamp of `stamp_of`. Count its defects in `bad`, without
    raising an error."""
    hashed = _Hashed(stream)
    rows: list[tuple[int, ...]] = []
    keys: list[str] = []
    starts: list[int] = []
    bad: Counter[str] = Counter()
    problems: list[str] = []

    def report(kind: Defect, what: str) -> None:
        bad[kind] += 1
        if len(problems) < _MOST_PROBLEMS:
            problems.append(f"{name}: {kind}: {what}")

    seen: set[str] = set()
    for item in _groups(hashed, report):
        starts.append(item.start)
        if item.key in seen:
            report(Defect.DUPLICATE_KEY, item.key)
            continue
        seen.add(item.key)
        if item.image is None:
            report(Defect.MISSING_IMAGE, item.key)
        elif item.caption is None:
            report(Defect.MISSING_CAPTION, item.key)
        else:
            uid = halves(item.uid or uid_of_key(item.key))
            rows.append(
                (
                    *item.image[:2],
                    *item.caption[:2],
                    item.image[2],
                    item.caption[2],
                    *item.json,
                    *uid,
                )
            )
            keys.append(item.key)
    sha256 = hashed.finish()
    return ShardIndex(
        name,
        hashed.bytes,
        sha256,
        stamp,
        np.array(rows, dtype=_FIELDS),
        keys,
        {**bad},
        problems,
        starts=np.array(starts, np.int64),
    )


def part_of(index: ShardIndex, rows: npt.NDArray[np.int64], uids: Sequence[str]) -> ShardIndex:
    """Return the index of some samples of a shard, for readers that may read no others. `rows`
    are their indices in `index.rows`, ascending. `uids`, 32 hex digits each, replace the shard's
    uids."""
    chosen = index.rows[rows]
    pairs = np.array([halves(uid) for uid in uids], np.uint64).reshape(-1, 2)
    chosen["uid_high"], chosen["uid_low"] = pairs.T
    return replace(
        index,
        rows=chosen,
        keys=[index.keys[row] for row in rows.tolist()],
        bad={},
        problems=[],
        part=hashlib.sha256(chosen.tobytes()).hexdigest(),
        starts=np.empty(0, np.int64),
    )


def _groups(stream: _Hashed, report: Callable[[Defect, str], None]) -> Iterator[_Group]:
    """Yield consecutive members with the same key as one group, like webdataset."""
    group: _Group | None = None
    tar = TarStream(stream)  # type: ignore[arg-type]  # TarStream only calls its read()
    try:
        for member in tar:
            if (parts := member.sample()) is None:
                continue
            key, extension = parts
            if group is None or group.key != key:
                if group is not None:
                    yield group
                group = _Group(key, member.offset)
            if extension in IMAGES and (
                not group.ending or IMAGES.index(extension) < IMAGES.index(group.ending)
            ):
                group.image = (member.content, member.size, hash64(tar.content(member)))
                group.ending = extension
            elif extension == CAPTION and group.caption is None:
                # The first that is not blank counts.
                content = tar.content(member)
                if content.strip():  # a blank caption counts as missing
                    group.caption = (member.content, member.size, caption_hash(content))
            elif extension == JSON and not group.json[0]:
                group.json = (member.content, member.size)
                group.uid = uid_of_json(tar.content(member))
    except BrokenTar as error:
        if not stream.bytes:
            report(Defect.EMPTY_TAR, "0 bytes")
        elif group is None:
            report(Defect.NOT_A_TAR, str(error))
        else:
            report(Defect.TRUNCATED_TAR, f"after {group.key}: {error}")
            if group.image is None or group.caption is None:
                return  # the last sample is truncated; the line above counts it
    if group is not None:
        yield group


def uid_of_json(content: bytes) -> str:
    """Return the uid of 32 hex digits in the JSON of a sample, or "" without one."""
    try:
        uid = json.loads(content)["uid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return uid if isinstance(uid, str) and _UID.fullmatch(uid) else ""


def save(index: ShardIndex, path: Path) -> None:
    """Publish an index on a local disk, complete or not at all. See `place_beside` for its path."""
    with published(path) as temporary:
        write(index, temporary)


def write(index: ShardIndex, path: Path) -> None:
    """Write an index to a file. See `save` for its arguments."""
    about = {
        key: value for key, value in asdict(index).items() if key not in ("rows", "keys", "starts")
    }
    with open(path, "wb") as file:
        np.savez(
            file,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            keys=packed_keys(index.keys),
            rows=index.rows,
            starts=index.starts,
        )


def load(path: Path | str, content: bytes | None = None) -> ShardIndex:
    """Return a stored index. With its `content`, which the caller has read, `path` is only named in
    messages. Raise BadIndex if the index is missing, unreadable or of another version."""
    try:
        with npz.opened(path if content is None else io.BytesIO(content)) as arrays:
            about = _about(arrays)
            found = ShardIndex(**about, rows=arrays["rows"], keys=unpacked_keys(arrays["keys"]))
            found.starts = arrays["starts"]
            return found
    except _UNREADABLE as error:
        raise BadIndex(
            f"the index {path} cannot be read ({error}); remove it, and run the command that wrote"
            " it again"
        ) from error


def is_current(path: Path, stamp: str) -> bool:
    """Return whether an index of this version exists for a stamp of `stamp_of`. Only its metadata
    are read."""
    try:
        with npz.opened(path) as content:
            about = _about(content)
            return bool(about["stamp"] == stamp)
    except _UNREADABLE:
        return False


# zipfile raises RuntimeError and NotImplementedError for flipped bits in its headers.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile)


def _about(content: Any) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(content["about"].tobytes())
    if about["version"] != VERSION:
        raise ValueError("written by another version of this program")
    return about
