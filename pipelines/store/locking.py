"""Who may work in an output folder: one run, or any number of shards; and which shards are at work.

On a disk the lock is the operating system's (flock), gone with its process. An object store has none, so there it is a
lease: an object that its holder renews every few seconds, and that counts for less than a minute. Its age is told by
the store's clock, for those of two machines may differ by as much. Leases of killed runs are removed by later ones.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO

from upath import UPath

from pipelines.store.commit import RunFailed, publish_json, read_json, remove
from pipelines.store.layout import Layout
from pipelines.store.storage import is_local, many_at_once

_RENEW_S, _AGAIN_S, _VALID_S = 10.0, 5.0, 45.0
_KEPT_S = 3600.0
"""A lease that was not renewed for so long is removed; long after it ceased to count, for its holder may have slept."""
_PAUSES_S = (2.0, 4.0, 8.0)
"""Before those ask again who met each other's lease."""
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class NotLocked(RuntimeError):
    """A folder that this run cannot have; the message says why, and what to do."""


class Busy(NotLocked):
    """Another run works there."""


class NoLocks(NotLocked):
    """Its file system has no locks."""


class LeaseLost(RunFailed):
    """A lease that could not be renewed in time, and that another run has taken the place of."""


class FileLock:
    """A lock on an open file; beside it a folder with a file for each shard, which that shard holds."""

    def __init__(self, handle: IO[str], shards: Path):
        self._handle, self._shards = handle, shards

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

    def check(self) -> None:
        """The system sees to it."""

    def at_work(self) -> set[str]:
        """The names of the shards that are at work, see `output_lock`."""
        return {path.name for path in self._shards.glob("*") if _is_held(path)}


def _is_held(path: Path) -> bool:
    with open(path, encoding="ascii") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@dataclass(frozen=True)
class _Other:
    """The lease of somebody else."""

    path: UPath
    lease: dict[str, object]
    age: float
    """Seconds since it was renewed."""

    @property
    def counts(self) -> bool:
        return self.age < _VALID_S


class Lease:
    """A lock in an object store. Two that ask at the same moment both see the other's lease, and both give way."""

    def __init__(self, folder: UPath, shard: str = ""):
        self._folder, self._shard = folder, shard
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path, self._shared = folder / f"{self._name}.json", True
        self._renewed = 0.0  # by this machine's monotonic clock
        self._lost_to = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, shared: bool) -> bool:
        """As `FileLock.take`."""
        self.release()
        self._shared, self._lost_to = shared, ""
        self._write()
        found = self._found()
        if self._forbidding(found):
            remove(self._path)
            return False
        for other in found:
            if other.age > _KEPT_S:
                remove(other.path)
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

    def check(self) -> None:
        """Raises LeaseLost where this run can no longer count on being the only one, or among shards only."""
        if self._lost_to:
            raise LeaseLost(
                f"the store did not take the lease of this run for {_VALID_S:.0f} seconds, and {self._lost_to} works "
                f"in {self._folder.parent.parent} since; what is committed stays"
            )

    def at_work(self) -> set[str]:
        """As `FileLock.at_work`."""
        return {str(lease["shard"]) for lease in self.others() if lease.get("shard")} | {self._shard} - {""}

    def others(self) -> list[dict[str, object]]:
        """The leases of others that count."""
        return [other.lease for other in self._found() if other.counts]

    def _found(self) -> list[_Other]:
        """The leases of others."""
        self._folder.fs.invalidate_cache(self._folder.path)
        now = self._written(self._path)
        paths = [path for path in self._folder.iterdir() if path.name != self._path.name]
        return [other for other in many_at_once(partial(self._other, now=now), paths) if other]

    def _other(self, path: UPath, now: datetime | None) -> _Other | None:
        """A lease that is there. `now` is when the store took this one's, by its clock."""
        lease: dict[str, object] | None = read_json(path)
        if lease is None:
            return None
        written = self._written(path)
        if written is None or now is None:  # a store that does not say: the clocks of the machines have to agree
            return _Other(path, lease, time.time() - float(str(lease["renewed"])))
        return _Other(path, lease, (now - written).total_seconds() + time.monotonic() - self._renewed)

    def _written(self, path: UPath) -> datetime | None:
        """When the store took an object, by its clock."""
        try:
            found: datetime = path.fs.modified(path.path)
        except (NotImplementedError, FileNotFoundError):
            return None
        return found

    def _forbidding(self, others: list[_Other]) -> list[str]:
        """Who does not let this run have the folder."""
        counting = (other.lease for other in others if other.counts)
        return [str(lease["holder"]) for lease in counting if not (self._shared and lease["shared"])]

    def _write(self) -> None:
        lease = {"holder": self._name, "shard": self._shard, "shared": self._shared, "renewed": time.time()}
        publish_json(self._path, lease)
        self._renewed = time.monotonic()

    def _renew(self) -> None:
        pause = _RENEW_S
        while not self._stop.wait(pause):
            try:
                gone = not self._path.exists()  # taken for that of a killed run, at the moment when it was renewed
                late = time.monotonic() - self._renewed > _VALID_S
                self._write()
                if (gone or late) and (others := self._forbidding(self._found())):
                    self._lost_to = others[0]
                pause = _RENEW_S
            except Exception:  # every store has errors of its own; what fails now may pass before the lease runs out
                pause = _AGAIN_S


@contextmanager
def output_lock(layout: Layout, shared: bool, shard: str = "") -> Iterator[FileLock | Lease]:
    """Holds an output folder while the `with` block runs; shards share it.

    Args:
        layout: of the folder.
        shared: whether others may work there too that say the same.
        shard: what the others see of this one in `at_work`, until the block ends; a name for a file.

    Raises:
        Busy: another run is working there.
        NoLocks: there can be no lock there.
    """
    work = layout.work
    if not is_local(work):
        lease = Lease(work / "leases", shard)
        if not lease.take(shared):
            who = next((f" ({other['holder']})" for other in lease.others()), "")
            raise Busy(f"{_busy(layout, who)}. (A run that was killed counts for {_VALID_S:.0f} seconds.)")
        try:
            yield lease
        finally:
            lease.release()
        return
    shards = work / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = FileLock(stack.enter_context(open(work / "lock", "a", encoding="ascii")), shards)
        try:
            taken = lock.take(shared)
            if taken and shard:
                mark = stack.enter_context(open(shards / shard, "a", encoding="ascii"))
                fcntl.flock(mark, fcntl.LOCK_SH)  # shared: a shard may be started twice
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise NoLocks(
                f"OUTPUT {layout.root} is on a file system without locks ({error.strerror}), and they keep two runs "
                "apart; mount it with them (Lustre: option flock), or choose another OUTPUT"
            ) from error
        if not taken:
            raise Busy(_busy(layout))
        yield lock


def _busy(layout: Layout, who: str = "") -> str:
    return f"another run{who} is working in {layout.root}; wait for it, or choose another OUTPUT"
