"""Open shards as local files; remote ones are fetched whole into a cache of bounded size.

A window of the shuffle reads a shard at random places, and then it is not needed for a long time.
So it is fetched once and dropped when the cache is full. The workers and ranks of a machine share
the cache; a lock per shard prevents fetching it twice at the same time. The cache keeps to its
bound: fetches reserve their space, and workers of a training open a file for one sample only, so
that no dropped file keeps its space for long.
"""

import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from open_diht.common.stores import file_system, in_words, is_remote, local_path, translated
from open_diht.trainer.data.errors import ShardLost, ShardMismatch, ShardUnavailable

TRIES = 4  # tries of a fetch, with pauses of 1, 2 and 4 seconds, far below `data.stall_s`
_PAUSE_S = 0.1  # between tries to make room: other processes free it as soon as they end a fetch


def default_cache() -> Path:
    """Return `$XDG_CACHE_HOME/diht`, or `~/.cache/diht` if that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diht"


@dataclass(frozen=True)
class ShardFile:
    """The place, size and stamp of a shard."""

    url: str
    """Local path or fsspec URL."""
    bytes: int | None = None
    """Size in bytes, if known. It is checked when the shard is fetched."""
    stamp: str = ""
    """A stamp that changes with the file. A cached copy with another stamp is not used."""

    @property
    def name(self) -> str:
        """The file name."""
        return self.url.rstrip("/").rsplit("/", 1)[-1]


class ShardStore:
    """A store that opens shards as local files. It can be pickled for another process."""

    def __init__(self, folder: Path, max_bytes: int):
        self._folder = folder / "shards"
        self._max_bytes = max_bytes

    @contextlib.contextmanager
    def open(self, shard: ShardFile) -> Iterator[int]:
        """Yield a file descriptor of a shard, for `os.pread`. Close the file of a remote shard
        soon: until then its bytes stay on the disk, even if the cache drops it. Raises
        `ShardUnavailable` or `ShardMismatch`.
        """
        descriptor = self.descriptor(shard)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def descriptor(self, shard: ShardFile) -> int:
        """Return a file descriptor as `open` does, which the caller must close."""
        if not is_remote(shard.url):
            try:
                return os.open(local_path(shard.url), os.O_RDONLY)
            except OSError as error:
                kind = ShardLost if isinstance(error, FileNotFoundError) else ShardUnavailable
                raise kind(f"shard {shard.url} cannot be opened: {error.strerror}") from error
        for _ in range(TRIES):
            path = self._fetched(shard)
            with contextlib.suppress(FileNotFoundError):  # another process has dropped it meanwhile
                descriptor = os.open(path, os.O_RDONLY)
                os.utime(descriptor)  # marks the shard as recently used
                return descriptor
        raise ShardUnavailable(
            f"shard {shard.url} was dropped from the cache as soon as it was fetched: raise"
            f" data.cache_gib, now {self._max_bytes / 2**30:.3g}, or lower data.shuffle or"
            " data.streams"
        )

    def fetch(self, shard: ShardFile) -> None:
        """Fetch a shard into the cache, if it is remote and not there yet."""
        if is_remote(shard.url):
            self._fetched(shard)

    def _fetched(self, shard: ShardFile) -> Path:
        path = (
            self._folder
            / f"{hashlib.sha256(f'{shard.url} {shard.stamp}'.encode()).hexdigest()[:24]}.tar"
        )
        if path.exists():
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path.with_suffix(".lock")):
                if not path.exists():
                    self._fetch(shard, path)
        except OSError as error:
            raise ShardUnavailable(
                f"shard {shard.url} cannot be kept in {self._folder} ({error}): set"
                " data.cache_folder"
            ) from error
        return path

    def _fetch(self, shard: ShardFile, path: Path) -> None:
        part = path.with_suffix(f".part-{uuid.uuid4().hex[:8]}")
        try:
            with self._reserved(shard, part) as local:
                for tried in range(TRIES):
                    try:
                        local.seek(0)
                        fs, inside = file_system(shard.url)
                        with fs.open(inside, "rb") as remote:
                            while content := remote.read(2**22):
                                local.write(content)
                        local.truncate()
                        break
                    except Exception as error:
                        # Errors of fsspec's backends have no common base class.
                        if tried == TRIES - 1 or isinstance(error, FileNotFoundError):
                            raise _unavailable(shard, error) from error
                        time.sleep(2**tried)
                local.flush()
                if shard.bytes is not None and part.stat().st_size != shard.bytes:
                    raise ShardMismatch(
                        f"shard {shard.url} has {part.stat().st_size:,} bytes, {shard.bytes:,} when"
                        " it was indexed"
                    )
                # A file under the final name is complete. The lock is still held: without it, the
                # part is an orphan.
                os.rename(part, path)
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reserved(self, shard: ShardFile, part: Path) -> Iterator[IO[bytes]]:
        """Yield a new file that has the size of the shard from the start, so that simultaneous
        fetches keep to the bound together. Wait while other fetches leave no room."""
        size = shard.bytes
        if size is None:
            with translated(partial(_unavailable, shard)):
                fs, inside = file_system(shard.url)
                size = int(fs.info(inside)["size"])
        if size > self._max_bytes:
            raise ShardUnavailable(
                f"shard {shard.url} has {size / 2**30:.3g} GiB, the cache data.cache_gib "
                f"{self._max_bytes / 2**30:.3g}: raise it"
            )
        while True:
            with _alone(self._folder / "room.lock"):
                if self._make_room(size):
                    local = open(part, "wb")  # noqa: SIM115 closed below
                    # While the lock is held, the file is not an orphan.
                    fcntl.flock(local, fcntl.LOCK_EX)
                    local.truncate(size)
                    break
            time.sleep(_PAUSE_S)
        with local:
            yield local

    def _make_room(self, wanted: int) -> bool:
        """Drop the least recently used shards until `wanted` bytes are free, and return whether
        they are."""
        files = []
        total = 0
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if ".part-" in path.name and _is_orphan(path):
                    path.unlink()
                    continue
                state = path.stat()
                total += state.st_size
                if path.suffix == ".tar":
                    files.append((state.st_mtime_ns, state.st_size, path))
        for _, size, path in sorted(files):  # least recently used first
            if total + wanted <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total + wanted <= self._max_bytes


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_orphan(part: Path) -> bool:
    """Return whether the process that wrote a partial file was killed."""
    with open(part, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def _unavailable(shard: ShardFile, error: Exception) -> ShardUnavailable:
    kind = ShardLost if isinstance(error, FileNotFoundError) else ShardUnavailable
    return kind(f"shard {shard.url} cannot be fetched: {in_words(error)}")
