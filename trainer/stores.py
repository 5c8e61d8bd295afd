"""Stores of folders: on a disk, or behind an fsspec URL.

A folder is put into a store whole or not at all, even if the process is killed. An object store
cannot rename a folder at once, so there one of its files is the *last*: it is written last and
removed first, and a folder without it was left by a killed run.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import fsspec  # type: ignore[import-untyped, unused-ignore]

from open_diht.common.command_line import WrongUse
from open_diht.common.files import published_folder, remove_temporaries, temporary_beside
from open_diht.common.store_errors import in_words
from open_diht.trainer.data.store import is_remote


class StoreError(RuntimeError):
    """An object store failed; the message names the object and quotes the store's client."""


class LocalStore:
    """A folder of folders on a disk."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def names(self, last: str) -> list[str]:
        """Return the names of all folders: each was renamed when it was whole."""
        return sorted(path.name for path in self.folder.glob("*") if path.is_dir())

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        return (self.folder / path).read_bytes()

    def stage(self, name: str) -> Path:
        """Return an empty folder on the same disk."""
        return _made(temporary_beside(self.folder / name))

    def put(self, staged: Path, name: str, last: str) -> None:
        """Flush the staged files to the disk and rename their folder; `staged` is used up."""
        try:
            with published_folder(self.folder / name) as temporary:
                for path in staged.iterdir():
                    os.rename(path, temporary / path.name)
        finally:
            shutil.rmtree(staged)

    def get(self, name: str, last: str) -> Path:
        """Return the folder itself."""
        return self.folder / name

    def rename(self, name: str, other: str, last: str) -> None:
        """Rename a folder."""
        os.rename(self.folder / name, self.folder / other)

    def remove(self, name: str, last: str) -> None:
        """Delete a folder, under a temporary name so that a kill leaves no part of it."""
        gone = temporary_beside(self.folder / f"gone-{name}")
        os.rename(self.folder / name, gone)
        shutil.rmtree(gone)

    def sweep(self, ours: Callable[[str], bool], last: str) -> None:
        """Delete temporary folders."""
        remove_temporaries(self.folder)


class FsspecStore:
    """A folder of folders behind an fsspec URL, and of files, each whole or absent.

    Its methods raise `StoreError`.

    Args:
        url: names the folder in the store.
        disk: where `stage` and `get` make folders on this machine, one at a time. All ranks of the
            machine share it.

    Raises:
        WrongUse: the protocol is unknown, or its client is not installed.
    """

    def __init__(self, url: str, disk: Path = Path(os.devnull)):
        self.url, self._disk = url.rstrip("/"), disk
        try:
            fs, path = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise WrongUse(f"{url} cannot be used: {error}") from error
        self.fs: Any = fs
        self.path: str = path.rstrip("/")

    def __str__(self) -> str:
        return self.url

    def files(self, name: str = "") -> list[str]:
        """Return the paths of all files in the folder `name`, relative to it."""
        folder = f"{self.path}/{name}".rstrip("/")
        with self._asking(name):
            self.fs.invalidate_cache()  # fsspec remembers listings
            return sorted(path.removeprefix(folder).lstrip("/") for path in self.fs.find(folder))

    def read(self, path: str) -> bytes:
        """Return the content of a file, or raise FileNotFoundError."""
        with self._asking(path) as inside:
            return bytes(self.fs.cat_file(inside))

    def write(self, content: bytes, path: str) -> None:
        """Make or replace a file."""
        with self._asking(path) as inside:
            self.fs.pipe_file(inside, content)

    def upload(self, file: Path, path: str) -> None:
        """Make or replace a file from one on the disk, of any size."""
        with self._asking(path) as inside:
            self.fs.put_file(str(file), inside)

    def download(self, name: str, folder: Path) -> None:
        """Copy all files of the folder `name` into a folder on the disk."""
        for path in self.files(name):
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError), self._asking(f"{name}/{path}".lstrip("/")) as inside:
                self.fs.get_file(inside, str(file))

    def delete(self, path: str) -> None:
        """Delete a file if it exists."""
        with suppress(FileNotFoundError), self._asking(path) as inside:
            self.fs.rm_file(inside)

    def names(self, last: str) -> list[str]:
        """Return the names of the folders that hold their last file."""
        parts = (path.split("/") for path in self.files())
        return [name for name, *file in parts if file == [last]]

    def stage(self, name: str) -> Path:
        """Return an empty folder on the disk, from which all others are removed."""
        self._clear()
        return _made(temporary_beside(self._disk / name))

    def put(self, staged: Path, name: str, last: str) -> None:
        """Upload a folder; its last file is deleted first, so it never vouches for a mixture."""
        self.delete(f"{name}/{last}")
        paths = sorted(path for path in staged.rglob("*") if path.is_file())
        for path in sorted(paths, key=lambda path: path == staged / last):
            self.upload(path, f"{name}/{path.relative_to(staged)}")

    def get(self, name: str, last: str) -> Path:
        """Download a folder, once for all ranks of a machine."""
        folder, content = self._disk / name, self.read(f"{name}/{last}")
        self._disk.mkdir(parents=True, exist_ok=True)
        with open(self._disk / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists() or (folder / last).read_bytes() != content:
                self._clear()
                with published_folder(folder) as temporary:
                    self.download(name, temporary)
                    (temporary / last).write_bytes(content)
        return folder

    def rename(self, name: str, other: str, last: str) -> None:
        """Copy the files inside the store, then delete them under the old name."""
        for path in self.files(name):
            with self._asking(f"{name}/{path}") as inside:
                self.fs.cp_file(inside, f"{self.path}/{other}/{path}")
        self.remove(name, last)

    def remove(self, name: str, last: str) -> None:
        """Delete a folder, its last file first."""
        for path in sorted(self.files(name), key=lambda path: path != last):
            self.delete(f"{name}/{path}")

    def sweep(self, ours: Callable[[str], bool], last: str) -> None:
        """Delete folders without their last file."""
        whole = self.names(last)
        for name in {path.partition("/")[0] for path in self.files()}.difference(whole):
            if ours(name):
                self.remove(name, last)

    def _clear(self) -> None:
        for path in self._disk.glob("*"):
            if path.is_dir():
                shutil.rmtree(path)

    @contextmanager
    def _asking(self, path: str) -> Iterator[str]:
        """Yield the file system's name of a path, and turn its errors into `StoreError`."""
        try:
            yield f"{self.path}/{path}"
        except FileNotFoundError:
            raise
        except Exception as error:  # fsspec's clients share no error class
            raise StoreError(f"{self.url}/{path}: {in_words(error)}") from error


Store: TypeAlias = LocalStore | FsspecStore


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@contextmanager
def on_disk(folder: str) -> Iterator[Path]:
    """Yield a folder on this machine's disk: `folder`, or a temporary copy if it is a URL."""
    if not is_remote(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="diht-") as copy:
        FsspecStore(folder).download("", Path(copy))
        yield Path(copy)
