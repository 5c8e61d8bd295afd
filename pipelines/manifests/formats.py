"""How a file is written and compressed, told from its name and first bytes."""

from __future__ import annotations

from typing import IO, cast, get_args

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from pipelines.datasets import Dataset
from pipelines.manifests.errors import BadSchema, UnreadableFile, reading
from pipelines.manifests.files import open_file, read_part
from pipelines.manifests.info import Compression, FileFormat

ENDINGS: dict[str, FileFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tar": "webdataset",
    ".tgz": "webdataset",
}
_COMPRESSED_ENDINGS = (".gz", ".zst", ".zstd", ".bz2")
_MAGIC: dict[bytes, Compression] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
_HEAD_BYTES = 512
_PIECE_BYTES = 16 * 2**10


def format_of_name(path: str) -> FileFormat | None:
    """Returns the format that the ending of a name stands for, None where it stands for none."""
    name = path.lower()
    for ending in _COMPRESSED_ENDINGS:
        name = name.removesuffix(ending)
    return next((format for ending, format in ENDINGS.items() if name.endswith(ending)), None)


def detect(path: str, dataset: Dataset) -> tuple[FileFormat, Compression]:
    """Returns how a file is written and compressed.

    Raises:
        UnreadableFile: its first bytes contradict that (a web page saved under the name, UTF-16, another kind of file).
        BadSchema: neither the data set, nor the name, nor the first bytes tell the format.
    """
    with reading(path):
        head = read_part(path, 0, _HEAD_BYTES)
    compression: Compression = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
    format = _format(path, dataset, head)
    if not compression and path.lower().endswith((*_COMPRESSED_ENDINGS, ".tgz")):
        raise UnreadableFile(
            path, "NotCompressed", f"the name says compressed, but the file starts with {head[:16]!r}{_hint(head)}"
        )
    if format == "parquet" and not head.startswith(b"PAR1"):
        raise UnreadableFile(
            path, "NotParquet", f"a Parquet file starts with b'PAR1', this one with {head[:16]!r}{_hint(head)}"
        )
    if compression:
        return format, compression
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableFile(path, "NotUtf8", "the file is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 in > out")
    if format != "webdataset" and _hint(head):
        raise UnreadableFile(path, "NotAManifest", f"the file starts with {head[:16]!r}{_hint(head)}")
    if format != "parquet" and head.startswith(b"PAR1"):
        raise UnreadableFile(
            path, "NotAManifest", f"the file is Parquet, but read as {format}; name it .parquet or say --format parquet"
        )
    return format, ""


def open_stream(path: str, compression: Compression) -> IO[bytes]:
    """Opens a file for reading, uncompressed on the way. Wrap it, and reads from it, in `reading`."""
    handle = open_file(path)
    if not compression:
        return handle
    return cast(IO[bytes], _Unpacked(handle, compression))


class _Unpacked:
    """An uncompressed stream that is read in small pieces: a piece with a break in it is lost whole."""

    def __init__(self, handle: IO[bytes], compression: Compression) -> None:
        self._handle = handle
        self._stream = pa.input_stream(pa.PythonFile(handle, mode="r"), compression=compression)

    def read(self, size: int) -> bytes:
        piece: bytes = self._stream.read(min(size, _PIECE_BYTES))
        return piece

    def __enter__(self) -> _Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._handle.close()


def _format(path: str, dataset: Dataset, head: bytes) -> FileFormat:
    if dataset.format != "auto":
        return dataset.format
    named = format_of_name(path)
    if named is not None:
        return named
    if head.startswith(b"PAR1"):
        return "parquet"
    if head[257:262] == b"ustar":
        return "webdataset"
    known = ", ".join(get_args(FileFormat))
    raise BadSchema(
        f"{path}: neither the name nor the first bytes ({head[:16]!r}) tell the format; say --format, one of {known}"
    )


def _hint(head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return " (a web page: a download that failed?)"
    if start.startswith(b"version https://git-lfs"):
        return " (a Git LFS pointer: fetch the file itself with git lfs pull)"
    return ""
