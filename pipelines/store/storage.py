"""One path type for output folders on a disk or in an object store.

A path without protocol, or with file:// or local://, is a `pathlib.Path`; `s3://...`, `gs://...`
and every other protocol that fsspec knows is a `UPath` with the same methods. fsspec and the client
of the store find credentials and endpoints themselves (AWS_ENDPOINT_URL, FSSPEC_S3_..., credential
files), so workers take them from their own environment, and nothing stores them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from open_diht.common.files import naming
from open_diht.common.stores import in_words, is_of_store, many_at_once, stamp_of, translated

if TYPE_CHECKING:
    from typing_extensions import TypeIs

StorePath = Path | UPath
"""A file or folder, local or remote."""

FileStamp = int | tuple[str, ...]
"""A value that changes when a file is replaced. It is the time of modification in nanoseconds, or 0
if the file is gone. For an object see `stamp_of`."""
Row = dict[str, Any]
"""A row with the user's own columns, or the JSON object of such a row. Rows of our own tables have
types."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_REMEMBERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl")
"""Protocols whose clients cache listings by default, which hides files that workers and other
shards write later."""
_ONE_SLASH = re.compile(r"([a-z][a-z0-9+]*:)/(?!/)")
SEE_TO_OUTPUT = "check OUTPUT, the network, and the credentials and endpoint of its store"
"""Remedy in error messages when OUTPUT could not be read."""


def store_path(text: str | StorePath) -> StorePath:
    """Return the path that a user's text names. Raises ValueError if its protocol is unknown or is
    followed by one slash. If a store's package is missing, using the path raises ImportError."""
    if not isinstance(text, str):
        return text
    protocol, _, rest = text.partition("://")
    if rest and protocol in ("file", "local"):
        return Path(rest)
    if slip := _ONE_SLASH.match(text):  # otherwise a local folder named `s3:` would be created
        raise ValueError(f"an address has two slashes: {slip[1]}//{text[slip.end() :]}")
    if not rest:
        return Path(os.path.expanduser(text))
    return UPath(text, use_listings_cache=False) if protocol in _REMEMBERS else UPath(text)


def is_local(path: StorePath) -> TypeIs[Path]:
    """Return whether a path is a `pathlib.Path`, and so on a disk that this machine has mounted."""
    return isinstance(path, Path)


def is_gone(path: StorePath) -> bool:
    """Return whether a file certainly does not exist. It is False if a disk or a store does not
    answer. A store is asked a second time, because one answer that an object is missing may be
    wrong."""
    try:
        return not path.exists() and (is_local(path) or not path.exists())
    except Exception:  # every store has errors of its own
        return False


def store_errors(
    path: StorePath, error: type[Exception], then: str
) -> AbstractContextManager[None]:
    """Turn errors of an object store in the `with` block into a one-line `error`. Errors of a disk
    stay as they are."""

    def translation(found: Exception) -> Exception | None:
        if is_local(path) or not is_of_store(found):
            return None
        return error(f"{path} cannot be read or written in its store ({in_words(found)}); {then}")

    return translated(translation)


def in_memory(path: StorePath) -> bool:
    """Return whether a path is in the memory of this process, which worker processes cannot see."""
    return not is_local(path) and path.protocol == "memory"


def on_this_machine(address: str) -> bool:
    """Return whether an address is on a disk or in the memory of this process, which other machines
    may not see. In a chain (`simplecache::s3://...`) the last link counts."""
    protocol, found, _ = address.rpartition("::")[2].partition("://")
    return not found or protocol in ("file", "local", "memory")


def open_parts(path: StorePath) -> IO[bytes]:
    """Open a file to read parts of it. A store's client does not read ahead, as it does by default
    (S3: 50 MB)."""
    if is_local(path):
        # A thread of Arrow may close the file a little later than its reader does. It would need
        # the GIL to close a Python file, and aborts the process if the interpreter has ended.
        with naming(path):
            return cast(IO[bytes], pa.OSFile(str(path)))
    return path.fs.open(path.path, "rb", cache_type="none")


def read_table(
    path: StorePath, columns: list[str] | None = None, filters: list[Any] | None = None
) -> pa.Table:
    """Return the table in a Parquet file. `filters` are conditions on rows, as of
    `pyarrow.parquet.read_table`."""
    if is_local(path):
        return pq.read_table(path, columns=columns, filters=filters)
    with open_parts(path) as file:
        return pq.read_table(file, columns=columns, filters=filters)


def row_groups(
    path: StorePath, columns: list[str] | None = None, between: tuple[str, int, int] | None = None
) -> Iterator[pa.Table]:
    """Yield an empty table with the schema of the columns, then the row groups of a Parquet file
    one by one. `columns` may be paths such as `column.list.element.field`; missing columns are left
    out. `between`, a column and a range [first, stop), skips groups whose statistics exclude values
    of that column in the range."""
    with open_parts(path) as source:
        file = pq.ParquetFile(source)
        empty = file.schema_arrow.empty_table()
        if columns is not None:
            columns = [path for path in columns if path.partition(".")[0] in empty.column_names]
            empty = empty.select([path.partition(".")[0] for path in columns])
        yield empty
        # A nested column has a leaf for each of its fields, and statistics are of leaves.
        leaves = (
            [file.schema.column(leaf).path for leaf in range(len(file.schema))] if between else []
        )
        for group in range(file.num_row_groups):
            if between is not None:
                name, first, stop = between
                known = file.metadata.row_group(group).column(leaves.index(name)).statistics
                if (
                    known is not None
                    and known.has_min_max
                    and not (known.min < stop and known.max >= first)
                ):
                    continue
            yield file.read_row_group(group, columns=columns)


def rows_of(
    file: pq.ParquetFile, places: NDArray[np.int64], columns: list[str] | None
) -> Iterator[tuple[int, Row]]:
    """Yield (place, row) for rows of a file. Only row groups that contain such a row are read."""
    first = 0
    for group in range(file.num_row_groups):
        stop = first + file.metadata.row_group(group).num_rows
        mine = places[(places >= first) & (places < stop)].tolist()
        table = file.read_row_group(group, columns=columns) if mine else pa.table({})
        for index in mine:
            (row,) = table.slice(index - first, 1).to_pylist()
            yield index, row
        first = stop


def read_bytes(path: StorePath) -> bytes:
    """Return the content of a file. Raises FileNotFoundError if it does not exist; a store that
    forbids listing may raise PermissionError."""
    if is_local(path):
        return path.read_bytes()
    # One request; opening the file would need another one for its size.
    return path.fs.cat_file(path.path)


def read_range(path: StorePath, start: int, stop: int) -> bytes:
    """Return bytes [start, stop) of a file, or fewer if it ends before."""
    if not is_local(path):
        return path.fs.cat_file(path.path, start=start, end=stop)
    with open(path, "rb", buffering=0) as file:
        # A buffered read would take more than the range.
        return os.pread(file.fileno(), stop - start, start)


def row_count(path: StorePath) -> int:
    """Return the number of rows in the footer of a Parquet file, or 0 without a file."""
    try:
        with open_parts(path) as file:
            return int(pq.ParquetFile(file).metadata.num_rows)
    except FileNotFoundError:
        return 0


def each(do: Callable[[_T], _R], items: Iterable[_T], root: StorePath) -> Iterator[_R]:
    """Yield `do(item)` for every item in order, concurrently if `root` is remote."""
    yield from map(do, items) if is_local(root) else many_at_once(do, items)


def stamps(folder: StorePath, ending: str) -> dict[str, FileStamp]:
    """Return the stamps of the entries of a folder that have this ending, by name without the
    ending. On a disk, hidden entries are left out. A stamp changes when the file is replaced, see
    `FileStamp`. The folder need not exist.
    """
    by_name = (
        {name: status.st_mtime_ns if status else 0 for name, status in _on_disk(folder)}
        if is_local(folder)
        else {name: stamp_of(info) for name, info in _in_store(folder)}
    )
    return {
        name.removesuffix(ending): stamp for name, stamp in by_name.items() if name.endswith(ending)
    }


def sizes(folder: StorePath) -> dict[str, int]:
    """Return the size in bytes of each file in a folder by its name. On a disk, hidden files are
    left out."""
    if is_local(folder):
        return {
            name: status.st_size
            for name, status in _on_disk(folder)
            if status and S_ISREG(status.st_mode)
        }
    return {
        name: int(info["size"] or 0) for name, info in _in_store(folder) if info["type"] == "file"
    }


def size_of(path: StorePath) -> int | None:
    """Return the size of a file in bytes, or None without a file."""
    try:
        return int(path.stat().st_size if is_local(path) else path.fs.info(path.path)["size"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def _on_disk(folder: Path) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield the name and status of each visible entry, with the status None for a removed entry or
    a broken link."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    status = None
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                    yield entry.name, status
    except (FileNotFoundError, NotADirectoryError):
        return


def _in_store(folder: UPath) -> Iterator[tuple[str, dict[str, Any]]]:
    fs = folder.fs
    inside = folder.path
    fs.invalidate_cache(inside)  # other machines write here
    try:
        entries = fs.ls(inside, detail=True)
    except FileNotFoundError:
        return
    for info in entries:
        yield info["name"].rsplit("/", 1)[-1], info
