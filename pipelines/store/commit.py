"""Publishing files so that a kill at any moment leaves them complete or absent.

On a disk everything is written under a temporary name, flushed, renamed. In an object store, where a finished object
appears at once and a rename would be a copy, it is written to a local temporary file and uploaded under its final
name. A unit's commit record is written last, the same way: a unit is done when its record is there.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from open_diht.common import files
from open_diht.common.files import naming, remove_temporaries, sync, temporary_beside
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath, is_local, read_bytes


@contextmanager
def published(path: StorePath) -> Iterator[Path]:
    """Yield a temporary local path to write to; on leaving, the file appears under `path` at once. On an error
    nothing appears, and an error of the disk names the file."""
    if is_local(path):
        with files.published(path) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory(prefix="diht-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        path.fs.put_file(str(temporary), path.path)


def publish_json(path: StorePath, value: Any) -> None:
    """Write `value` as JSON."""
    with published(path) as temporary:
        temporary.write_text(_json(value), encoding="utf-8", errors="surrogatepass")


def publish_bytes(path: StorePath, content: bytes) -> None:
    """Write a file of bytes."""
    with published(path) as temporary:
        temporary.write_bytes(content)


def publish_first(path: StorePath, value: Any) -> bool:
    """Write `value` as JSON unless `path` exists. Of several writers at once one wins; True for that one."""
    content = _json(value).encode("utf-8", "surrogatepass")
    if not is_local(path):
        try:
            path.fs.pipe_file(path.path, content, mode="create")
        except FileExistsError:
            return False
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with naming(path):
            temporary.write_bytes(content)
            sync(temporary)
            os.link(temporary, path)
            sync(path.parent)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def publish_table(path: StorePath, table: pa.Table) -> None:
    """Write a table as Parquet, zstd."""
    with published(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


class TableFile:
    """A Parquet file written batch by batch (a row group each) and published when closed without error; its schema is
    that of the first table. Where no table was written (and `schema` is None) no file appears, and one of that name
    that lay there is removed."""

    def __init__(self, path: StorePath, schema: pa.Schema | None = None):
        self._path, self._schema = path, schema
        self._writer: pq.ParquetWriter | None = None
        self._context = published(path)
        self.rows = 0

    def __enter__(self) -> TableFile:
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
            remove(self._path)  # of an earlier decision that had rows here


class RunFailed(RuntimeError):
    """A run ended before its time; what is committed stays. The message says why, and what to do."""


class Garbled(RunFailed):
    """A file of ours that holds no JSON any more."""


def read_json(path: StorePath) -> Any:
    """Return the content of a JSON file; None where there is no file.

    Raises:
        Garbled: it is cut short, empty, or holds something else.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8", "surrogatepass"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Garbled(f"{path} holds no JSON ({error}); remove it, and the same command makes it again") from error


def remove(path: StorePath) -> None:
    """Delete a file, where there is one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return


def remove_empty(*folders: StorePath) -> None:
    """Delete these folders, in this order, where they are empty. An object store has no empty folders."""
    for folder in folders:
        if is_local(folder):
            with suppress(OSError):  # it does not exist, or holds files
                folder.rmdir()


def retract(record: StorePath) -> None:
    """Take back a commit record before what it vouches for is replaced: a kill in between must leave a unit undone, not
    the old record beside new files."""
    if record.exists():
        record.unlink()
        if is_local(record):
            sync(record.parent)


def remove_leftovers(layout: Layout) -> None:
    """Delete temporary files and folders that killed runs left where runs write. Only names of
    `temporary_beside` are deleted, and folders of others are not listed. An object store keeps none."""
    for folder in layout.folders() if is_local(layout.root) else ():
        assert is_local(folder)
        remove_temporaries(folder)
