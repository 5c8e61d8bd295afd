"""A folder of `make concepts`, on a disk or behind an fsspec URL. Files are read and written whole."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fsspec  # type: ignore[import-untyped, unused-ignore]

from open_diht.common.files import publish_bytes, remove_temporaries
from open_diht.trainer.data.errors import DataError, ShardUnavailable
from open_diht.trainer.data.store import TRIES, is_remote


class AtWork(DataError):
    """Another process holds the folder."""


@dataclass(frozen=True)
class Folder:
    """Where files lie; names are given in parts."""

    root: str
    """Local path or fsspec URL."""

    def __str__(self) -> str:
        return self.root

    def url(self, *names: str) -> str:
        """Path or URL of something in it."""
        return "/".join([self.root.rstrip("/"), *names])

    def local(self, *names: str) -> Path | None:
        """The same as a local path; None where the folder is remote."""
        if is_remote(self.root):
            return None
        return Path(self.url(*names).removeprefix("file://").removeprefix("local://"))

    def exists(self, *names: str) -> bool:
        """There is a file or folder of that name."""
        path = self.local(*names)
        if path is not None:
            return path.exists()
        fs, inside = fsspec.core.url_to_fs(self.url(*names))
        fs.invalidate_cache()  # listings are remembered; another process writes
        return bool(fs.exists(inside) or fs.isdir(inside))

    def read(self, *names: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: it is not there.
            ShardUnavailable: the store did not give it, several times.
        """
        path = self.local(*names)
        if path is not None:
            return path.read_bytes()
        url = self.url(*names)
        for tried in range(TRIES):
            try:
                fs, inside = fsspec.core.url_to_fs(url)
                content: bytes = fs.cat_file(inside)
                return content
            except FileNotFoundError:
                raise
            except Exception as error:  # fsspec's backends share no error class
                if tried == TRIES - 1:
                    raise ShardUnavailable(f"{url} cannot be fetched: {type(error).__name__}: {error}") from error
                time.sleep(2**tried)
        raise AssertionError("the last try returns or raises")

    def publish(self, content: bytes, *names: str) -> None:
        """Write a file so that a kill leaves it complete or absent; an object store does so by itself."""
        path = self.local(*names)
        if path is None:
            fs, inside = fsspec.core.url_to_fs(self.url(*names))
            fs.pipe_file(inside, content)
            return
        publish_bytes(path, content)

    @contextmanager
    def alone(self, *names: str) -> Iterator[None]:
        """Holds a lock file while the `with` block runs; nothing where the folder is remote.

        Raises:
            AtWork: another process holds it.
        """
        path = self.local(*names)
        if path is None:
            yield
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AtWork(f"another run is working in {self.root}; wait for it") from error
            yield

    def sweep(self, *names: str) -> None:
        """Remove what killed runs left directly in a folder; a remote one keeps nothing. Only under `alone`."""
        path = self.local(*names)
        if path is not None:
            remove_temporaries(path)

    def names(self, *names: str, ending: str) -> list[str]:
        """Names of the files directly in a folder that end so."""
        path = self.local(*names)
        if path is not None:
            found = [each.name for each in path.glob(f"*{ending}")]
        else:
            fs, inside = fsspec.core.url_to_fs(self.url(*names))
            fs.invalidate_cache()
            try:
                found = [str(each).rsplit("/", 1)[-1] for each in fs.ls(inside, detail=False)]
            except FileNotFoundError:
                found = []
        return sorted(name for name in found if name.endswith(ending) and not name.startswith("."))

    def remove(self, *names: str) -> None:
        """Delete a file, where there is one."""
        path = self.local(*names)
        if path is not None:
            path.unlink(missing_ok=True)
        elif self.exists(*names):
            fs, inside = fsspec.core.url_to_fs(self.url(*names))
            fs.rm_file(inside)
