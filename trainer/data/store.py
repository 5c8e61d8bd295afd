"""Shards as local files: local ones as they are, remote ones fetched whole into a bounded cache.

A shard is read at random places of one window of the shuffle and then not for a long time, so it is fetched once and
dropped when the cache is full. The cache is shared by the workers and ranks of a machine; a lock per shard keeps them
from fetching it twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec  # type: ignore[import-untyped, unused-ignore]

from trainer.data.errors import ShardMismatch, ShardUnavailable

TRIES = 4  # of a fetch, with pauses of 1, 2 and 4 seconds
_ORPHANED_S = 3600  # age from which a part file is one that a killed process left


def is_remote(path: str) -> bool:
    """Whether a path is an fsspec URL of something else than local files."""
    return "://" in path and not path.startswith(("file://", "local://"))


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/diht`, `~/.cache/diht` where that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "diht"


@dataclass(frozen=True)
class ShardFile:
    """Where a shard lies."""

    url: str
    """Local path or fsspec URL."""
    bytes: int | None = None
    """Its size, where known; checked when it is fetched."""
    stamp: str = ""
    """What the file system says about it; a cached copy with another stamp is not used."""

    @property
    def name(self) -> str:
        """File name."""
        return self.url.rstrip("/").rsplit("/", 1)[-1]


class ShardStore:
    """Hands out shards as local files. Picklable; one per process."""

    def __init__(self, folder: Path, max_bytes: int):
        self._folder, self._max_bytes = folder / "shards", max_bytes

    @contextlib.contextmanager
    def open(self, shard: ShardFile) -> Iterator[int]:
        """A file descriptor for `os.pread`. It stays readable even where the cache drops the file meanwhile.

        Raises:
            ShardUnavailable: it is not there or cannot be fetched.
        """
        descriptor = self.descriptor(shard)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def descriptor(self, shard: ShardFile) -> int:
        """As `open`; the caller closes it."""
        if not is_remote(shard.url):
            try:
                return os.open(shard.url.removeprefix("file://").removeprefix("local://"), os.O_RDONLY)
            except OSError as error:
                raise ShardUnavailable(f"shard {shard.url} cannot be opened: {error.strerror}") from error
        for _ in range(TRIES):
            path = self._fetched(shard)
            with contextlib.suppress(FileNotFoundError):  # dropped by another process since
                descriptor = os.open(path, os.O_RDONLY)
                os.utime(path)
                return descriptor
        raise ShardUnavailable(
            f"shard {shard.url} was dropped from the cache as soon as it was fetched: "
            f"raise data.cache_gib, now {self._max_bytes / 2**30:.3g}, or lower data.shuffle"
        )

    def fetch(self, shard: ShardFile) -> None:
        """Have a remote shard in the cache before it is needed."""
        if is_remote(shard.url):
            self._fetched(shard)

    def _fetched(self, shard: ShardFile) -> Path:
        path = self._folder / f"{hashlib.sha256(f'{shard.url} {shard.stamp}'.encode()).hexdigest()[:24]}.tar"
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                self._make_room(shard.bytes or 0)
                self._fetch(shard, path)
        return path

    def _fetch(self, shard: ShardFile, path: Path) -> None:
        part = path.with_suffix(f".part-{uuid.uuid4().hex[:8]}")
        try:
            for tried in range(TRIES):
                try:
                    with fsspec.open(shard.url, "rb") as remote, open(part, "wb") as local:
                        while content := remote.read(2**22):
                            local.write(content)
                    break
                except Exception as error:  # fsspec's backends share no error class
                    if tried == TRIES - 1 or isinstance(error, FileNotFoundError):
                        raise ShardUnavailable(
                            f"shard {shard.url} cannot be fetched: {type(error).__name__}: {error}"
                        ) from error
                    time.sleep(2**tried)
            if shard.bytes is not None and part.stat().st_size != shard.bytes:
                raise ShardMismatch(
                    f"shard {shard.url} has {part.stat().st_size:,} bytes, {shard.bytes:,} when it was indexed"
                )
            os.rename(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, wanted: int) -> None:
        files = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                state = path.stat()
                if ".part-" in path.name and time.time() - state.st_mtime > _ORPHANED_S:
                    path.unlink()
                elif path.suffix == ".tar":
                    files.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total + wanted <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
