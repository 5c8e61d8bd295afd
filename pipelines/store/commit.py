"""Publish files so that a kill at any moment leaves each file complete or as it was before.

On a disk, a file is written under a temporary name, flushed and renamed. In an object store an
upload appears only when it is complete, and a rename would be a copy; so the file is written to a
local temporary file and uploaded under its final name. The commit record of a unit is written last
in the same way: without it a unit is not done.
"""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from open_diht.common import files
from open_diht.common.files import (
    DISK_REMEDIES,
    is_temporary,
    naming,
    remove_temporaries,
    sha256_file,
    sync,
    temporary_beside,
)
from open_diht.common.lease import check_fence
from open_diht.common.stores import create, lacks_conditions
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath, is_local, read_bytes, sizes

_TRIES = 3
"""Tries of a request with a condition, since another process (say, a second one of the same shard)
may replace the object meanwhile."""
_unconditional: set[tuple[Callable[..., None], str]] = set()
"""Requests (`_put` or `_delete`) that the store of a bucket has refused with a condition as not
implemented, so that no file is sent twice."""
_digests: dict[str, str] = {}
"""SHA-256 of the files that this process has published and no record has taken yet, by path."""


@contextmanager
def published(path: StorePath, hashed: bool = True) -> Iterator[Path]:
    """Yield a temporary local path to write to, and publish the file as `path` when the block ends.
    On an error nothing is published, and if `path` is on a disk, an error of the disk that names no
    file gets this name. With `hashed`, the file's SHA-256 is kept for `take_digest`; it is computed
    here, because a store would have to send the file back.
    """
    if is_local(path):
        with files.published(path) as temporary:
            yield temporary
            if hashed:
                _digests[str(path)] = sha256_file(temporary)
        return
    with tempfile.TemporaryDirectory(prefix="diht-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        if hashed:
            _digests[str(path)] = sha256_file(temporary)
        _guarded(path, _put, temporary)


def take_digest(path: StorePath) -> str | None:
    """Return the SHA-256 of a file as this process has published it, once. Return None if it has
    not."""
    return _digests.pop(str(path), None)


def _guarded(path: UPath, request: Callable[..., None], *arguments: Path) -> None:
    """Upload or delete an object. Raise LeaseLost if another run has taken the output folder. A
    paused request may end, or be tried again by the client, after that run has replaced the object.
    So a request to S3 has the condition that the object is still the same as before the check.
    Uploads of 100 MB and more, which the client sends in parts, and stores without such conditions
    have only the check."""
    key = request, path.path.partition("/")[0]
    for tries in range(1, _TRIES + 1):
        conditional = path.protocol in ("s3", "s3a") and key not in _unconditional
        condition = _unchanged(path) if conditional else {}
        check_fence(path)
        try:
            request(path, *arguments, **condition)
            return
        except OSError as error:
            if condition and lacks_conditions(error):
                _unconditional.add(key)
                continue
            refused = (
                isinstance(error, FileExistsError | FileNotFoundError)
                or error.errno == errno.EINVAL
            )
            if not (condition and refused) or tries == _TRIES:
                raise


def _unchanged(path: UPath) -> dict[str, str]:
    """Return the condition for a request to S3 that the object is not replaced, created or deleted
    meanwhile."""
    try:
        return {"IfMatch": path.fs.info(path.path)["ETag"]}
    except FileNotFoundError:
        return {"mode": "create"}


def _put(path: UPath, file: Path, **condition: str) -> None:
    path.fs.put_file(str(file), path.path, **condition)


def _delete(path: UPath, **condition: str) -> None:
    """Delete an object. With `mode`, see `_unchanged`, there is none."""
    if "IfMatch" in condition:
        bucket, key, _ = path.fs.split_path(path.path)
        path.fs.call_s3("delete_object", Bucket=bucket, Key=key, **condition)
        path.fs.invalidate_cache(path.path)
    elif not condition:
        path.unlink(missing_ok=True)


def publish_json(path: StorePath, value: Any) -> None:
    publish_bytes(path, _json(value))


def publish_bytes(path: StorePath, content: bytes) -> None:
    with published(path) as temporary:
        temporary.write_bytes(content)


def publish_first(path: StorePath, value: Any) -> bool:
    """Publish `value` as JSON unless `path` exists, and return whether this call wrote the file. If
    several processes try at once, exactly one succeeds."""
    check_fence(path)  # before a folder that was removed is made again
    if not is_local(path):
        try:
            create(path.fs, path.path, _json(value))
        except FileExistsError:
            return False
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with naming(path):
            temporary.write_bytes(_json(value))
            sync(temporary)
            check_fence(path)  # as in `files.published`
            os.link(temporary, path)  # unlike a rename, it fails if the path exists
            sync(path.parent)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "surrogatepass")


def publish_table(path: StorePath, table: pa.Table) -> None:
    """Publish a table as Parquet with zstd compression."""
    with published(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def publish_arrays(path: StorePath, **arrays: Any) -> None:
    """Publish arrays as an uncompressed .npz file."""
    with published(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


class TableFile:
    """A Parquet file that is written table by table and published when it is closed without error.
    Its schema is `schema` or, by default, that of the first table. If there is neither when it
    closes, no file is published, and an existing file is deleted."""

    def __init__(self, path: StorePath, schema: pa.Schema | None = None):
        self._path = path
        self._schema = schema
        self._writer: pq.ParquetWriter | None = None
        self._context = published(path)
        self.rows = 0

    def __enter__(self) -> Self:
        if self._schema is not None:
            self._open(self._schema)
        return self

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        self._writer = pq.ParquetWriter(self._context.__enter__(), schema, compression="zstd")
        return self._writer

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table."""
        writer = self._writer or self._open(table.schema)
        writer.write_table(table.cast(writer.schema) if table.schema != writer.schema else table)
        self.rows += table.num_rows

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as failed:  # a full disk
                self._context.__exit__(type(failed), failed, failed.__traceback__)
                raise
            self._context.__exit__(*error)
        elif error[0] is None:
            remove(self._path)  # an earlier decision may have had rows here


class RunFailed(RuntimeError):
    """The run ended early. The message gives the reason and the remedy."""


class CorruptRecord(RunFailed):
    """A JSON file of this program is corrupt."""


def read_json(path: StorePath) -> Any:
    """Return the content of a JSON file, or None without a file. Raise CorruptRecord if it is empty
    or not JSON."""
    try:
        return json.loads(read_bytes(path).decode("utf-8", "surrogatepass"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorruptRecord(
            f"{path} holds no JSON ({error}); remove it and run its command again"
        ) from error


def remove(path: StorePath) -> None:
    """Delete a file if it exists. Raise LeaseLost if another run has taken the output folder."""
    if is_local(path):
        check_fence(path)
        path.unlink(missing_ok=True)
    else:
        _guarded(path, _delete)


def remove_empty(*folders: StorePath) -> None:
    """Delete the empty ones of these folders, in this order. An object store has no empty
    folders."""
    for folder in folders:
        if is_local(folder):
            with suppress(OSError):  # it does not exist, holds files, or may not be removed
                folder.rmdir()


@contextmanager
def best_effort() -> Iterator[None]:
    """Ignore errors of a disk or a store in the `with` block. Use it for marks and progress, which
    no result depends on: the unit's own files fail with a better message, and an error in Beam's
    hands may end all units.
    """
    with suppress(Exception):  # errors of a store's clients have no common base class
        yield


def remedy_of(error: Exception, root: StorePath) -> str:
    """Return the remedy for an error when a file of an output folder is written, or "" if none is
    known."""
    if isinstance(error, OSError) and (is_local(root) or error.filename):  # a file on a disk
        return DISK_REMEDIES.get(
            error.errno or 0, "Allow writing there" if error.errno == errno.EACCES else ""
        )
    return (
        "Allow writing there, or renew the credentials"
        if isinstance(error, PermissionError)
        else ""
    )


def retract(record: StorePath) -> None:
    """Delete a commit record before its files are replaced, so that a kill in between leaves an
    undone unit."""
    if record.exists():
        remove(record)
        if is_local(record):
            sync(record.parent)


def remove_leftovers(layout: Layout) -> None:
    """Delete the temporary files and folders that killed runs left in the folders of
    `Layout.folders`. Only names like those of `temporary_beside` are deleted. If the output is in
    an object store, only `work/` and this machine's scratch folder have leftovers."""
    if is_local(layout.root):
        for folder in layout.folders():
            assert is_local(folder)
            remove_temporaries(folder)
        return
    remove_temporaries(layout.scratch)
    for name in filter(is_temporary, sizes(layout.work)):
        remove(layout.work / name)
