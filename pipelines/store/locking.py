"""Who may work in an output folder: one run, or any number of shards.

On a disk the lock is the operating system's (flock), gone with its process. An object store has none, so there it is a
lease: an object that its holder renews every minute and that counts for five.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from upath import UPath

from pipelines.store.commit import publish_json, read_json, remove
from pipelines.store.layout import Layout
from pipelines.store.storage import is_local

_RENEW_S, _AGAIN_S, _VALID_S = 60.0, 10.0, 300.0
_PAUSES_S = (2.0, 4.0, 8.0)
"""Before those ask again who met each other's lease."""
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class NotLocked(RuntimeError):
    """A folder that this run cannot have; the message says why, and what to do."""


class Busy(NotLocked):
    """Another run works there."""


class NoLocks(NotLocked):
    """Its file system has no locks."""


class FileLock:
    """A lock on an open file."""

    def __init__(self, handle: IO[str]):
        self._handle = handle

    def take(self, shared: bool) -> bool:
        """Take it, or change what is held. False where others forbid it; then nothing is held."""
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        return True

    def take_alone(self) -> bool:
        """Take it, for this one only."""
        return self.take(shared=False)

    def release(self) -> None:
        """Give it back; it may be taken again."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)


class Lease:
    """A lock in an object store. Two that ask at the same moment both see the other's lease, and both give way."""

    def __init__(self, folder: UPath):
        self._folder, self._name = folder, f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path, self._shared = folder / f"{self._name}.json", True
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, shared: bool) -> bool:
        """As `FileLock.take`."""
        self.release()
        self._shared = shared
        self._write()
        if any(not (shared and other["shared"]) for other in self._others()):
            remove(self._path)
            return False
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()
        return True

    def take_alone(self) -> bool:
        """As `FileLock.take_alone`. Asks several times, at random moments, for two that met have both given way."""
        for pause in _PAUSES_S:
            if self.take(shared=False):
                return True
            time.sleep(pause * random.uniform(0.5, 1.5))
        return self.take(shared=False)

    def release(self) -> None:
        """Give it back; it may be taken again."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._stop.clear()
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
        pause = _RENEW_S
        while not self._stop.wait(pause):
            try:
                self._write()
                pause = _RENEW_S
            except Exception:  # every store has errors of its own; what fails now may pass before the lease runs out
                pause = _AGAIN_S


@contextmanager
def output_lock(layout: Layout, shared: bool) -> Iterator[FileLock | Lease]:
    """Holds an output folder while the `with` block runs; shards share it.

    Raises:
        Busy: another run is working there.
        NoLocks: there can be no lock there.
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
        try:
            taken = lock.take(shared)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise NoLocks(
                f"OUTPUT {layout.root} is on a file system without locks ({error.strerror}), and they keep two runs "
                "apart; mount it with them (Lustre: option flock), or choose another OUTPUT"
            ) from error
        if not taken:
            raise Busy(message)
        yield lock
