"""Stores of files and folders, on a disk or at an fsspec URL, and uploading in the background.

If a store writes single files atomically, as object stores do, a file or a folder is put into it
whole or not at all, even if the process is killed. Object stores cannot rename a folder atomically,
so there one file of a folder is its *last*, which is uploaded last and removed first. A folder
without its last file is being written or removed, or was left by a run that ended in between.
"""

import fcntl
import io
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from open_diht.common.command_line import WrongUse
from open_diht.common.files import (
    publish_bytes,
    published_folder,
    remove_temporaries,
    temporary_beside,
)
from open_diht.common.lease import Fence, LeaseLost
from open_diht.common.stores import file_system, in_words, is_remote, local_path, translated
from open_diht.trainer.errors import TrainingError

PAUSES_S = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Pauses before retries of a failed upload, two minutes in total, on top of the retries of the
store's client."""
_READ_PAUSES_S = (1.0, 2.0, 4.0)  # shorter, because a step or a worker waits meanwhile


class StoreError(TrainingError):
    """Reading or writing an object store failed. The message names the object and quotes the
    store's client."""


class LocalStore:
    """A store in a folder on a disk."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def exists(self, path: str) -> bool:
        return (self.folder / path).exists()

    def files(self, name: str = "") -> list[str]:
        """Return the paths of all files in the folder `name`, relative to it."""
        return sorted(self.sizes(name))

    def sizes(self, name: str = "") -> dict[str, int]:
        """Return the size in bytes of all files in the folder `name`, by their path relative to
        it."""
        folder = self.folder / name
        return {
            str(path.relative_to(folder)): path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file()
        }

    def read(self, path: str, most: int | None = None) -> bytes:
        """Return the content of a file, or its first `most` bytes. Raises FileNotFoundError if
        there is none."""
        with self.opened(path) as file:
            return file.read(-1 if most is None else most)

    def opened(self, path: str) -> BinaryIO:
        """Open a file. Raises FileNotFoundError if there is none."""
        return open(self.folder / path, "rb")

    def write(self, content: bytes, path: str) -> None:
        """Create or replace a file with bytes."""
        publish_bytes(self.folder / path, content)

    def delete(self, path: str) -> None:
        (self.folder / path).unlink(missing_ok=True)

    def names(self, last: str) -> list[str]:
        """Return the names of all folders. Unless a folder is temporary, it is complete, because it
        was renamed at the end."""
        return sorted(path.name for path in self.folder.glob("*") if path.is_dir())

    def stage(self, name: str) -> Path:
        """Return an empty folder on the same disk."""
        (folder := temporary_beside(self.folder / name)).mkdir(parents=True)
        return folder

    def put(self, staged: Path, name: str, last: str) -> None:
        """Publish a folder of `stage`: flush its files to the disk and rename it. `last` is
        unused."""
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
        """Rename the folder `name` to `other`; `last` is unused."""
        os.rename(self.folder / name, self.folder / other)

    def remove(self, name: str, last: str) -> None:
        """Delete a folder. Rename it first, so that a kill leaves no part under its name. `last` is
        unused."""
        gone = temporary_beside(self.folder / f"gone-{name}")
        os.rename(self.folder / name, gone)
        shutil.rmtree(gone)

    def sweep(self, ours: Callable[[str], bool], last: str) -> None:
        """Delete temporary folders of killed runs, and temporary files in folders whose name `ours`
        accepts."""
        for folder in (
            self.folder,
            *(self.folder / name for name in self.names(last) if ours(name)),
        ):
            remove_temporaries(folder)


class FsspecStore:
    """A store in a folder at an fsspec URL. Its methods raise `StoreError` if the store fails, and
    FileNotFoundError if a file is missing. `stage` and `get` keep one folder at a time on `disk`,
    which all ranks of a machine share. Raises `WrongUse` if the protocol is unknown, or its client
    is not installed or does not accept the URL.
    """

    def __init__(self, url: str, disk: Path = Path(os.devnull)):
        self.url = url.rstrip("/")
        self._disk = disk
        try:
            self._fs, path = file_system(self.url)
        except (ImportError, ValueError) as error:
            raise WrongUse(f"{url} cannot be used: {error}") from error
        self.path: str = path.rstrip("/")
        self._process = os.getpid()

    def __str__(self) -> str:
        return self.url

    @property
    def fs(self) -> Any:
        """The file system. A forked process makes its own, because fsspec's clients do not survive
        a fork."""
        if self._process != os.getpid():
            self._fs = file_system(self.url)[0]
            self._process = os.getpid()
        return self._fs

    def exists(self, path: str) -> bool:
        with self._asking(path) as inside:
            self.fs.invalidate_cache()  # fsspec caches listings
            return bool(self.fs.exists(inside) or self.fs.isdir(inside))

    def files(self, name: str = "") -> list[str]:
        """Return the paths of all files in the folder `name`, relative to it."""
        return sorted(self.sizes(name))

    def sizes(self, name: str = "") -> dict[str, int]:
        """Return the size in bytes of all files in the folder `name`, by their path relative to
        it."""
        folder = f"{self.path}/{name}".rstrip("/")
        with self._asking(name):
            self.fs.invalidate_cache()
            found = self.fs.find(folder, detail=True)
            return {
                path.removeprefix(folder).lstrip("/"): int(about["size"] or 0)
                for path, about in found.items()
            }

    def read(self, path: str, most: int | None = None) -> bytes:
        """Return the content of a file, or its first `most` bytes. Raises FileNotFoundError if
        there is none; other failures are retried."""
        pauses = iter(_READ_PAUSES_S)
        while True:
            try:
                with self._asking(path) as inside:
                    return bytes(self.fs.cat_file(inside, end=most))[:most]  # a server may send all
            except StoreError:
                if (pause_s := next(pauses, None)) is None:
                    raise
            time.sleep(pause_s)

    def opened(self, path: str) -> BinaryIO:
        """Return a file of what `read` returns."""
        return io.BytesIO(self.read(path))

    def write(self, content: bytes, path: str) -> None:
        """Create or replace a file with bytes."""
        with self._asking(path) as inside:
            self.fs.pipe_file(inside, content)

    def upload(self, file: Path, path: str) -> None:
        """Create or replace a file by a copy of a file on the disk, of any size."""
        with self._asking(path) as inside:
            self.fs.put_file(str(file), inside)

    def download(self, name: str, folder: Path) -> None:
        """Copy all files of a folder to the disk. A `name` of "" stands for the whole store."""
        for path in self.files(name):
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError), self._asking(f"{name}/{path}".lstrip("/")) as inside:
                self.fs.get_file(inside, str(file))

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError), self._asking(path) as inside:
            self.fs.rm_file(inside)

    def names(self, last: str) -> list[str]:
        """Return the names of the folders that hold their last file, and so are complete."""
        parts = (path.split("/") for path in self.files())
        return [name for name, *file in parts if file == [last]]

    def stage(self, name: str) -> Path:
        """Return an empty folder on the disk, after removing all others there."""
        self._clear()
        (folder := temporary_beside(self._disk / name)).mkdir(parents=True)
        return folder

    def put(self, staged: Path, name: str, last: str) -> None:
        """Upload a folder, its last file last. That file is deleted first, so it never marks a
        mixture as complete."""
        self.delete(f"{name}/{last}")
        paths = sorted(path for path in staged.rglob("*") if path.is_file())
        for path in sorted(paths, key=lambda path: path == staged / last):
            self.upload(path, f"{name}/{path.relative_to(staged)}")

    def get(self, name: str, last: str) -> Path:
        """Download a folder, once for all ranks of a machine. An earlier download is recognized by
        the last file."""
        folder = self._disk / name
        content = self.read(f"{name}/{last}")
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
        """Rename a folder: copy its files in the store, its last file at the end, then delete the
        old ones."""
        for path in sorted(self.files(name), key=lambda path: path == last):
            with self._asking(f"{name}/{path}") as inside:
                self.fs.cp_file(inside, f"{self.path}/{other}/{path}")
        self.remove(name, last)

    def remove(self, name: str, last: str) -> None:
        """Delete a folder, its last file first."""
        for path in sorted(self.files(name), key=lambda path: path != last):
            self.delete(f"{name}/{path}")

    def sweep(self, ours: Callable[[str], bool], last: str) -> None:
        """Delete folders whose name `ours` accepts and whose last file is missing. Killed runs left
        them."""
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
        """Yield the file system's name of a path. Errors in the block become `StoreError`, except
        FileNotFoundError."""

        def translation(error: Exception) -> StoreError | None:
            missing = isinstance(error, FileNotFoundError)
            return None if missing else StoreError(f"{self.url}/{path}: {in_words(error)}")

        with translated(translation):
            yield f"{self.path}/{path}"


Store: TypeAlias = LocalStore | FsspecStore


def store_at(place: Path | str) -> Store:
    if is_remote(url := str(place)):
        return FsspecStore(url)
    return LocalStore(Path(local_path(url)))


@contextmanager
def on_disk(folder: str) -> Iterator[Path]:
    """Yield a folder on this machine's disk: `folder`, or a temporary copy if it is a URL."""
    store = store_at(folder)
    if isinstance(store, LocalStore):
        yield store.folder
        return
    with tempfile.TemporaryDirectory(prefix="diht-") as copy:
        store.download("", Path(copy))
        yield Path(copy)


class Uploads:
    """An executor that runs one job at a time and stops at the first permanent failure, whose error
    the next `submit` or `wait` raises. Its threads are daemons, unlike those of a
    ThreadPoolExecutor, for which Python waits at exit: a second Ctrl-C must end the process in the
    middle of a job."""

    fence: Fence | None = None
    """Checked before each try of a job: a run must not write to a store that another run took
    over."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._newest: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """True if all jobs are done."""
        return self._newest is None or not self._newest.is_alive()

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job after the earlier ones. A job that raises RuntimeError is retried after each of
        `PAUSES_S`."""
        self._raise_error()
        self._newest = threading.Thread(target=self._run, args=(job, self._newest), daemon=True)
        self._newest.start()

    def wait(self) -> float:
        """Wait until all jobs are done, and return the seconds waited."""
        began = time.monotonic()
        if self._newest is not None:
            self._newest.join()
        self._raise_error()
        return time.monotonic() - began

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self, job: Callable[[], None], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # one job at a time, in order
        pauses = iter(PAUSES_S)
        try:
            while self._error is None:
                try:
                    if self.fence is not None:
                        with translated(_unread_lease):
                            self.fence.check()
                    return job()
                except LeaseLost:
                    raise
                except RuntimeError:
                    if (pause_s := next(pauses, None)) is None:
                        raise
                time.sleep(pause_s)
        except Exception as error:  # raised again in the thread of the training
            self._error = error


def _unread_lease(error: Exception) -> StoreError | None:
    return (
        None
        if isinstance(error, LeaseLost)
        else StoreError(f"the lease cannot be read: {in_words(error)}")
    )
