"""Lock an output folder for one run or for any number of shards, and list the shards at work.

On a disk the lock is one of the operating system (flock), which ends with its process. An object
store has no locks, so there it is a lease (`open_diht.common.lease`). Both have a fencing token,
which is in the records of a run: each exclusive lock gets the next token, and shards that work
together share a token. A driver that was paused or cut off from its store may have lost its lease
to another run, and so have its workers on any machine. A lock on a disk is lost if the folder is
removed, since a new run locks a new file, and workers may outlive a driver and its lock. So each
process knows the fence of the run that it works for, and all that publishes or removes files checks
it first.

NFS maps a flock to a lock of bytes, and grants a shared one to files that are open for reading
alone, an exclusive one to files that are open for writing. So each lock file is open for both.
"""

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from open_diht.common.lease import (
    VALID_S,
    AnyFence,
    FileFence,
    Lease,
    newest_fence,
    set_fence,
    settings_of,
)
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import is_local

# A shard that is the first holds the lock alone for far less than half a second.
_TRIES = 10
_PAUSE_S = 0.05
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class NotLocked(RuntimeError):
    """The folder cannot be locked; the message gives the reason and the remedy."""


class Busy(NotLocked):
    """Another run holds the lock."""


class NoLocks(NotLocked):
    """The file system of the folder has no locks."""


class FileLock:
    """A lock on an open file, and a folder in which each shard at work holds the lock of a file
    named after it."""

    def __init__(self, handle: IO[str], path: Path, shards: Path):
        self._handle = handle
        self._shards = shards
        self.fence = FileFence(path)

    def take(self, shared: bool) -> bool:
        """Acquire the lock, or change its mode. Return False if another process prevents it; no
        lock is held then."""
        for _ in range(_TRIES if shared else 1):
            alone = self._flock(fcntl.LOCK_EX)
            if alone:
                self._next_token()
            if (alone and not shared) or (shared and self._flock(fcntl.LOCK_SH)):
                self.fence.content = os.pread(self._handle.fileno(), self._size(), 0)
                return True
            # Another shard may be the first as well, and be alone for a moment.
            time.sleep(_PAUSE_S * shared)
        self.release()
        return False

    def _next_token(self) -> None:
        """Add a byte to the lock file, which gets its name first if it is new."""
        file = self._handle.fileno()
        if not self._size():
            os.write(file, uuid.uuid4().hex.encode("ascii"))
        os.ftruncate(file, self._size() + 1)  # a hole, which fits on a full disk
        os.fsync(file)  # for workers on other machines, which read the file while it is open here

    def _size(self) -> int:
        return os.fstat(self._handle.fileno()).st_size

    def _flock(self, mode: int) -> bool:
        try:
            fcntl.flock(self._handle, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def take_alone(self) -> bool:
        """Acquire the lock exclusively; return whether that succeeded."""
        return self.take(shared=False)

    def release(self) -> None:
        """Release the lock, which may be acquired again."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def at_work(self) -> set[str]:
        """Return the names of the shards at work, see `output_lock`."""
        return {path.name for path in self._shards.glob("*") if _is_held(path)}


def is_locked(layout: Layout) -> bool:
    """Return whether a run is working in an output folder. Nothing is written there; without the
    right to write to the folder of a disk the answer is False."""
    if not is_local(layout.work):
        leases = layout.work / "leases"
        return Lease(leases.fs, leases.path, str(layout.root)).is_held()
    try:
        return _is_held(layout.work / "lock")
    except OSError:  # no lock, no right to open it for writing, or no locks
        return False


def _is_held(path: Path) -> bool:
    with open(path, "r+", encoding="ascii") as handle:  # closing it releases the lock of this test
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def output_lock(
    layout: Layout, shared: bool, shard: str = "", say: Callable[[str], None] = lambda line: None
) -> Iterator[FileLock | Lease]:
    """Hold the lock of an output folder while the `with` block runs. Raise Busy if another run
    holds it, and NoLocks if the file system has none. `shard`, a valid file name, is this shard's
    name in the `at_work` of other shards. `say` receives a line for the terminal if a store does
    not answer or another run's lease has to expire.
    """
    work = layout.work
    with ExitStack() as stack:
        stack.callback(set_fence, layout.root, None)
        if not is_local(work):
            leases = work / "leases"
            lease = Lease(leases.fs, leases.path, str(layout.root), shard, say)
            stack.callback(lease.release)
            if not lease.take(shared):
                who = f" ({lease.refused_by[0]['holder']})"
                raise Busy(
                    f"{_busy(layout, who)}. (A killed run counts for {VALID_S:.0f} seconds.)"
                )
            set_fence(layout.root, lease.fence)
            yield lease
            return
        shards = work / "shards"
        shards.mkdir(parents=True, exist_ok=True)
        path = work / "lock"
        lock = FileLock(stack.enter_context(open(path, "a+", encoding="ascii")), path, shards)
        try:
            taken = lock.take(shared)
            if taken and shard:
                mark = stack.enter_context(open(shards / shard, "a+", encoding="ascii"))
                fcntl.flock(mark, fcntl.LOCK_SH)  # shared: a shard may be started twice
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise NoLocks(
                f"OUTPUT {layout.root} is on a file system without locks ({error.strerror}), which"
                " keep two runs apart; mount it with locks (Lustre: option flock), or choose"
                " another OUTPUT"
            ) from error
        if not taken or (shard and _others_work(lock, settings_of(shard))):
            raise Busy(_busy(layout))
        set_fence(layout.root, lock.fence)
        yield lock


@contextmanager
def watched(layout: Layout) -> Iterator[None]:
    """Publish files in an output folder without its lock while the `with` block runs. Publishing
    raises LeaseLost if a run has taken the folder since the block began, or if it was removed. An
    output that no run has locked yet is not watched."""
    work = layout.work
    fence: AnyFence | None
    if is_local(work):
        lock = work / "lock"
        fence = FileFence(lock, lock.read_bytes()) if lock.exists() else None
    else:
        leases = work / "leases"
        fence = newest_fence(leases.fs, leases.path, str(layout.root))
    set_fence(layout.root, fence)
    try:
        yield
    finally:
        set_fence(layout.root, None)


def _others_work(lock: FileLock, settings: str) -> bool:
    """Return whether shards with other settings are at work. The file of a shard that is about to
    be refused, or that another shard is testing at this moment, also looks like the file of a shard
    at work."""
    for _ in range(_TRIES):
        if {settings_of(name) for name in lock.at_work()} == {settings}:
            return False
        time.sleep(_PAUSE_S)
    return True


def _busy(layout: Layout, who: str = "") -> str:
    return (
        f"another run{who} is working in {layout.root}; wait for it, or choose another OUTPUT."
        " (Shards work in it together if their settings are equal.)"
    )
