"""Who may work in an output folder: one run, or any number of shards; and which shards are at work.

On a disk the lock is the operating system's (flock), gone with its process. An object store has none, so there it is a
lease (`open_diht.common.lease`).
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from open_diht.common.lease import VALID_S, Lease
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import is_local

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class NotLocked(RuntimeError):
    """A folder that this run cannot have; the message says why, and what to do."""


class Busy(NotLocked):
    """Another run works there."""


class NoLocks(NotLocked):
    """Its file system has no locks."""


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


@contextmanager
def output_lock(
    layout: Layout, shared: bool, shard: str = "", say: Callable[[str], None] = lambda line: None
) -> Iterator[FileLock | Lease]:
    """Hold an output folder while the `with` block runs; shards share it.

    Args:
        layout: of the folder.
        shared: whether others may work there too that say the same.
        shard: what the others see of this one in `at_work`, until the block ends; a name for a file.
        say: gets a line for people where a store does not answer while the block runs.

    Raises:
        Busy: another run is working there.
        NoLocks: there can be no lock there.
    """
    work = layout.work
    if not is_local(work):
        leases = work / "leases"
        lease = Lease(leases.fs, leases.path, str(layout.root), shard, say)
        if not lease.take(shared):
            who = next((f" ({other['holder']})" for other in lease.others()), "")
            raise Busy(f"{_busy(layout, who)}. (A run that was killed counts for {VALID_S:.0f} seconds.)")
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
