"""Output folders on a disk or in an object store, behind one path type.

A path without protocol is a `pathlib.Path`; `s3://...`, `gs://...` and every other protocol that fsspec knows is a
`UPath` with the same methods. Credentials and endpoints come from where fsspec and the store's own client look for
them (AWS_ENDPOINT_URL, FSSPEC_S3_..., credential files), so they reach workers with the environment and are never
written down.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import IO, TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from open_diht.common.store_errors import in_words, is_of_client

if TYPE_CHECKING:
    from typing_extensions import TypeIs

StorePath = Path | UPath
"""A file or folder, local or remote."""

_T = TypeVar("_T")
_REMEMBERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl")
"""Protocols whose clients remember listings, and then see neither what workers and other shards have written since nor
that they have replaced it, unless they are told not to."""
_ONE_SLASH = re.compile(r"([a-z][a-z0-9+]*:)/(?!/)")
SEE_TO_OUTPUT = "see to OUTPUT, and to the network, the credentials and the endpoint of its store"
"""The remedy where OUTPUT could not be looked at."""
_CONNECTIONS = 32  # requests to an object store under way at once; each waits tens of milliseconds


def store_path(text: str | StorePath) -> StorePath:
    """The path that a user's text names. Raises ValueError or ImportError where its protocol is not to be had."""
    if not isinstance(text, str):
        return text
    if text.startswith("file://"):
        return Path(text.removeprefix("file://"))
    protocol, remote, _ = text.partition("://")
    if slip := _ONE_SLASH.match(text):  # else a folder s3: here, which nobody asked for
        raise ValueError(f"an address has two slashes: {slip[1]}//{text[slip.end() :]}")
    if not remote:
        return Path(os.path.expanduser(text))
    return UPath(text, use_listings_cache=False) if protocol in _REMEMBERS else UPath(text)


def is_local(path: StorePath) -> TypeIs[Path]:
    """Return whether a path is on a disk that this machine has mounted."""
    return isinstance(path, Path)


def is_gone(path: StorePath) -> bool:
    """Return whether there is no such file. A store that does not answer does not say so."""
    try:
        return not path.exists()
    except Exception:  # every store has errors of its own
        if is_local(path):
            raise
        return False


@contextmanager
def asked(path: StorePath, error: type[Exception], then: str) -> Iterator[None]:
    """What goes wrong with an object store while the `with` block asks it becomes `error`: one line that ends with
    `then`. Errors of a disk pass."""
    try:
        yield
    except Exception as found:
        if is_local(path) or not (isinstance(found, OSError) or is_of_client(found)):
            raise
        raise error(f"{path} cannot be had of its store ({in_words(found)}); {then}") from found


def in_memory(path: StorePath) -> bool:
    """Return whether a path is in the memory of this process, which no worker sees and which goes with it."""
    return not is_local(path) and path.protocol == "memory"


def on_this_machine(address: str) -> bool:
    """Return whether an address names a disk or the memory of this process, which other machines may not see. In a
    chain (`simplecache::s3://...`) the last link counts."""
    protocol, found, _ = address.rpartition("::")[2].partition("://")
    return not found or protocol in ("file", "local", "memory")


def open_parts(path: StorePath) -> IO[bytes]:
    """Open a file of which parts are read. Of a remote one nothing else is fetched; clients' own values (S3: 50 MB
    beyond each read) are for who reads a file to its end."""
    if is_local(path):
        return path.open("rb")
    handle: IO[bytes] = path.fs.open(path.path, "rb", cache_type="none")
    return handle


def read_table(path: StorePath, columns: list[str] | None = None, filters: list[Any] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns and rows."""
    if is_local(path):
        return pq.read_table(path, columns=columns, filters=filters)
    with open_parts(path) as file:
        return pq.read_table(file, columns=columns, filters=filters)


def row_groups(
    path: StorePath, columns: list[str] | None = None, between: tuple[str, int, int] | None = None
) -> Iterator[pa.Table]:
    """A Parquet file of ours, one row group at a time, so that it takes no more memory than it took to write; before
    them a table without rows, for its schema.

    Args:
        path: the file.
        columns: those to read; None: all.
        between: (column, first, stop): groups without a value of that column in [first, stop) are passed over.
    """
    with open_parts(path) as source:
        file = pq.ParquetFile(source)
        empty = file.schema_arrow.empty_table()
        yield empty if columns is None else empty.select(columns)
        for group in range(file.num_row_groups):
            if between is None or _overlaps(file, group, *between):
                yield file.read_row_group(group, columns=columns)


def _overlaps(file: pq.ParquetFile, group: int, column: str, first: int, stop: int) -> bool:
    known = file.metadata.row_group(group).column(file.schema_arrow.names.index(column)).statistics
    return known is None or not known.has_min_max or (known.min < stop and known.max >= first)


def read_bytes(path: StorePath) -> bytes:
    """A whole file. Raises FileNotFoundError where there is none."""
    if is_local(path):
        return path.read_bytes()
    content: bytes = path.fs.cat_file(path.path)  # one request; opening a file asks for its size first
    return content


def read_range(path: StorePath, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file, fewer where it ends before; no others are fetched."""
    if not is_local(path):
        content: bytes = path.fs.cat_file(path.path, start=start, end=stop)
        return content
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), stop - start, start)


def row_count(path: StorePath) -> int:
    """Rows of a Parquet file, from its footer; 0 where there is no file."""
    try:
        with open_parts(path) as file:
            return int(pq.ParquetFile(file).metadata.num_rows)
    except FileNotFoundError:
        return 0


def each(do: Callable[[_T], Any], items: Iterable[_T], root: StorePath) -> Iterator[Any]:
    """`do` of every item, in order; many at once where `root` is remote."""
    yield from map(do, items) if is_local(root) else many_at_once(do, items)


def many_at_once(do: Callable[[_T], Any], items: Iterable[_T]) -> Iterator[Any]:
    """`do` of every item, in order, where each waits for the network."""
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        yield from pool.map(do, items)


def stamps(folder: StorePath, ending: str) -> dict[str, Any]:
    """The files of a folder by name without `ending`, each with something that changes when the file is replaced."""
    found = (
        {name: status.st_mtime_ns if status else 0 for name, status in _on_disk(folder)}
        if is_local(folder)
        else {name: stamp_of(info) for name, info in _in_store(folder)}
    )
    return {name.removesuffix(ending): stamp for name, stamp in found.items() if name.endswith(ending)}


def sizes(folder: StorePath) -> dict[str, int]:
    """The bytes of the files of a folder, by name: one listing."""
    if is_local(folder):
        return {name: status.st_size for name, status in _on_disk(folder) if status and S_ISREG(status.st_mode)}
    return {name: int(info["size"] or 0) for name, info in _in_store(folder) if info["type"] == "file"}


def size_of(path: StorePath) -> int | None:
    """The bytes of a file, None where there is none."""
    try:
        return int(path.stat().st_size if is_local(path) else path.fs.info(path.path)["size"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def stamp_of(info: dict[str, Any]) -> tuple[str, ...]:
    """Something that changes when an object is replaced, of what a store says of it."""
    changing = ("ETag", "etag", "generation", "LastModified", "mtime", "created", "size")
    of_git = (str(info["blob_id"]),) if "blob_id" in info else ()
    return (*(str(info.get(key)) for key in changing), *of_git)


def _on_disk(folder: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Names and what the system says of them; None of what has just been removed."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    yield entry.name, _status(entry)
    except (FileNotFoundError, NotADirectoryError):
        return


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


def _in_store(folder: UPath) -> Iterator[tuple[str, dict[str, Any]]]:
    fs, inside = folder.fs, folder.path
    fs.invalidate_cache(inside)
    try:
        found = fs.ls(inside, detail=True)
    except FileNotFoundError:
        return
    for info in found:
        yield info["name"].rsplit("/", 1)[-1], info
