"""A folder behind an fsspec URL: what is written by one training and read by whoever wants to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped, unused-ignore]

from open_diht.common.command_line import WrongUse
from open_diht.common.store_errors import in_words
from open_diht.trainer.data.store import is_remote


class StoreError(RuntimeError):
    """A store did not do what it was asked for; the message names what, and why."""


class RemoteFolder:
    """Names are given in parts. An object appears at once when it is finished, or not at all.

    Raises `WrongUse` where the protocol is unknown or its client is not installed; its methods raise `StoreError`.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        try:
            fs, path = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise WrongUse(f"{url} cannot be used: {error}") from error
        self.fs: Any = fs
        self.path: str = path.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def inside(self, *names: str) -> str:
        """What the file system calls something in it."""
        return "/".join([self.path, *names])

    def files(self, *names: str) -> list[str]:
        """Paths of all files below, relative to it; none where there is no such folder."""
        folder = self.inside(*names)
        with self._asked(*names):
            self.fs.invalidate_cache()  # listings are remembered
            return sorted(path.removeprefix(folder).lstrip("/") for path in self.fs.find(folder))

    def read(self, *names: str) -> bytes:
        """A file. Raises FileNotFoundError where there is none."""
        with self._asked(*names):
            content: bytes = self.fs.cat_file(self.inside(*names))
            return content

    def write(self, content: bytes, *names: str) -> None:
        """Make or replace a file."""
        with self._asked(*names):
            self.fs.pipe_file(self.inside(*names), content)

    def upload(self, file: Path, *names: str) -> None:
        """As `write`, of a file on the disk, of any size."""
        with self._asked(*names):
            self.fs.put_file(str(file), self.inside(*names))

    def download(self, file: Path, *names: str) -> None:
        """Bring a file to the disk. Raises FileNotFoundError where there is none."""
        with self._asked(*names):
            self.fs.get_file(self.inside(*names), str(file))

    def upload_folder(self, folder: Path, *names: str, last: str) -> None:
        """Bring a folder and all below. `last` is the file by which it is known to be whole: it is taken away first, so
        that nobody meets it beside old and new files, and comes last."""
        self.remove(*names, last)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in sorted(paths, key=lambda path: path == folder / last):
            self.upload(path, *names, *path.relative_to(folder).parts)

    def remove(self, *names: str) -> None:
        """Delete a file, where there is one."""
        with suppress(FileNotFoundError), self._asked(*names):
            self.fs.rm_file(self.inside(*names))

    def remove_folder(self, name: str) -> None:
        """Delete a folder and all below, where there is one."""
        for path in self.files(name):
            self.remove(name, path)

    def move(self, name: str, other: str) -> None:
        """Rename a folder: files are copied by the store, then deleted."""
        for path in self.files(name):
            with self._asked(name, path):
                self.fs.cp_file(self.inside(name, path), self.inside(other, path))
        self.remove_folder(name)

    @contextmanager
    def _asked(self, *names: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:  # fsspec's backends share no error class
            raise StoreError(f"{'/'.join([self.url, *names])}: {in_words(error)}") from error


@contextmanager
def on_disk(folder: str) -> Iterator[Path]:
    """A folder on this machine's disk: itself, or a temporary copy of one behind a URL."""
    if not is_remote(folder):
        yield Path(folder)
        return
    store = RemoteFolder(folder)
    with tempfile.TemporaryDirectory(prefix="diht-") as copy:
        for path in store.files():
            file = Path(copy) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            store.download(file, path)
        yield Path(copy)
