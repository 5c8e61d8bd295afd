"""Who may work in an output folder: one run, or any number of shards.

On a disk the lock is the operating system's (flock), gone with its process. An object store has none, so there it is a
lease: an object that its holder renews every minute and that counts for five.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from upath import UPath

from pipelines.commit import publish_json, read_json, remove
from pipelines.layout import Layout
from pipelines.storage import is_local

_RENEW_S, _VALID_S = 60.0, 300.0


class Busy(RuntimeError):
    """Another run works in the folder; the message says where."""


class FileLock:
    """A lock on an open file."""

    def __init__(self, handle: IO[str]):
        self._handle = handle

    def take(self, shared: bool) -> bool:
        """Take it, or change what is held. False where others forbid it; then nothing is held."""
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            return False
        return True


class Lease:
    """A lock in an object store. Two that ask at the same moment both see the other's lease, and both give way."""

    def __init__(self, folder: UPath):
        self._folder, self._name = folder, f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path, self._shared = folder / f"{self._name}.json", True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self, shared: bool) -> bool:
        """As `FileLock.take`."""
        self._shared = shared
        self._write()
        if any(not (shared and other["shared"]) for other in self._others()):
            remove(self._path)
            return False
        if not self._thread.is_alive():
            self._thread.start()
        return True

    def release(self) -> None:
        """Give it back."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        remove(self._path)

    def _others(self) -> Iterator[dict[str, object]]:
        self._folder.fs.invalidate_cache(self._folder.path)
        for path in self._folder.iterdir():
            lease = read_json(path) if path.name != self._path.name else None
            if lease and time.time() - lease["renewed"] < _VALID_S:
                yield lease

    def _write(self) -> None:
        publish_json(self._path, {"holder": self._name, "shared": self._shared, "renewed": time.time()})

    def _renew(self) -> None:
        while not self._stop.wait(_RENEW_S):
            self._write()


@contextmanager
def output_lock(layout: Layout, shared: bool) -> Iterator[FileLock | Lease]:
    """Holds an output folder while the `with` block runs; shards share it.

    Raises:
        Busy: another run is working there.
    """
    message = f"another run is working in {layout.root}; wait for it, or choose another OUTPUT"
    work = layout.work
    if not is_local(work):
        lease = Lease(work / "leases")
        if not lease.take(shared):
            raise Busy(f"{message}. (A run that was killed counts for {_VALID_S / 60:.0f} minutes.)")
        try:
            yield lease
        finally:
            lease.release()
        return
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "a", encoding="ascii") as handle:
        lock = FileLock(handle)
        if not lock.take(shared):
            raise Busy(message)
        yield lock
