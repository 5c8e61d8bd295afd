"""A lock in an object store without locks: a JSON object that its holder renews every ten seconds
and that expires after 45 seconds. A run that holds a lease measures the age of others with the
store's clock, if the store reports times, because the clocks of two machines may differ by that
much. Later runs remove the leases that were not renewed for an hour.

A holder that is paused or cut off from the store cannot notice that its lease expires and another
run acquires one. So each lease has a fencing token, a number that only grows: the object `N.token`
in the folder of leases, which the holder creates without replacing an object (by a conditional put,
if the store has that). Shards with equal settings share one token. If the folder is removed, the
numbers begin at 1 again, so a token also holds the unique name of its creator. All code that writes
under a lease calls `Fence.check` first, in every process, and ends with LeaseLost if the newest
token is another one, or is gone.
"""

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain, repeat
from pathlib import Path, PurePosixPath
from typing import Any

from open_diht.common.stores import create, many_at_once, said_if_slow

RENEW_S = 10.0
AGAIN_S = 5.0
VALID_S = 45.0
"""Seconds between renewals, seconds before the retry of a failed renewal, and lifetime of a lease
in seconds: several renewals may fail before a lease ends, and the lease of a killed run blocks
others for less than a minute."""
RENEWAL_SLOW_S = 4.0
"""Renewals that take more seconds are reported: other work that waits for the store may be silent
for minutes."""
_KEPT_S = 3600.0
"""A run that acquires a lease deletes leases not renewed for longer. A machine may have slept for
some time."""
_PAUSES_S = (2.0, 4.0, 8.0)
"""Seconds to back off, times 0.5 to 1.5, after the first, the second and all later tries to acquire
a lease exclusively. The factor is random, since two runs that ask at the same moment could
otherwise back off together for ever."""
_TOKEN = ".token"
_BYTE = b"\0"  # of a file that grows by `ftruncate`


def _clock() -> float:
    """Return seconds of a clock that also counts while the machine sleeps, if the system has one
    (Linux)."""
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic()
    )


class LeaseLost(RuntimeError):
    """Another run has taken the place that this run's lease or lock protects, or the place was
    removed."""


class Removed(LeaseLost):
    """The place, given by its name, was removed, so that it has no token."""

    def __init__(self, of: str):
        super().__init__(
            f"{of} was removed or emptied while this run was working in it, so its results are"
            " lost; run the same command to start over"
        )


@dataclass
class Fence:
    """The fencing token of a lease, which a driver passes on to its workers."""

    fs: Any
    folder: str
    """The folder of leases."""
    of: str
    """Name of the place that the lease protects, for messages."""
    token: int = 0
    holder: str = ""
    """The unique name of the run that created the token."""

    @property
    def name(self) -> str:
        """A name of the token that no other token has."""
        return f"{self.token} of {self.holder}"

    def check(self) -> None:
        """Raise LeaseLost if the newest token is not this one."""
        newest = max(_tokens(self.fs, self.folder), default=0)
        if not newest:
            raise Removed(self.of)
        try:
            holder = creator_of(self.fs, self.folder, newest)["holder"]
        except FileNotFoundError:
            # A third run has taken it by now, or the folder is being removed: see the next check.
            holder = self.holder if newest == self.token else "another run"
        if (newest, holder) != (self.token, self.holder):
            raise LeaseLost(
                f"this run was paused, or cut off from its store, for more than {VALID_S:.0f}"
                f" seconds, and {holder} has taken {self.of} since; this run has changed nothing"
                " there since then. Run the same command to resume when that run has ended"
            )


@dataclass
class FileFence:
    """The fencing token of a lock file, which is the file's content: a random name of the file,
    which differs if the folder was removed and made again, and a byte for each time that a run has
    locked the file exclusively. Outputs of earlier versions have only the bytes."""

    path: Path
    content: bytes = b""

    @property
    def name(self) -> str:
        """A name of the token that no other token has."""
        return f"{len(self.content)} of {self.content.rstrip(_BYTE).decode('ascii')}"

    def check(self) -> None:
        """Raise LeaseLost if the file has another content, or is gone."""
        root = self.path.parent.parent
        try:
            found = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Removed(str(root)) from error
        if found != self.content:
            raise LeaseLost(
                f"another run has taken {root} since this one began, or after {root} was removed;"
                " this run has changed nothing there since then. Run the same command to resume"
                " when that run has ended"
            )


class FolderFence:
    """A fence of a folder on a disk without a lock for others, see `held`. It knows the folder by
    an open handle, which keeps the system from giving its number to another one."""

    def __init__(self, path: Path):
        self._path = path
        self._handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self.name = ""

    def check(self) -> None:
        """Raise LeaseLost if another folder has this path now, or none has."""
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Removed(str(self._path)) from error
        if not os.path.samestat(found, os.fstat(self._handle)):
            raise LeaseLost(
                f"{self._path} was removed and made again while this run was working in it; this"
                " run has changed nothing in the new one. Name another folder to have the results"
                " of both"
            )

    def close(self) -> None:
        os.close(self._handle)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder, and publish files in it while the `with` block runs. Publishing raises
    LeaseLost if the folder is removed meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    fence = FolderFence(folder)
    set_fence(folder, fence)
    try:
        yield
    finally:
        set_fence(folder, None)
        fence.close()


AnyFence = Fence | FileFence | FolderFence
_fences: dict[str, AnyFence] = {}
"""Fences by folder."""


def set_fence(root: object, fence: AnyFence | None) -> None:
    """Set the fence of a folder for this process, or None without a lock, as for programs that only
    read."""
    if fence is None:
        _fences.pop(_absolute(root), None)
    else:
        _fences[_absolute(root)] = fence


def fence_of(root: object) -> AnyFence | None:
    return _fences.get(_absolute(root))


def token_of(root: object) -> str:
    """Return the name of the fencing token of this process's run. It is empty without a lock."""
    fence = fence_of(root)
    return fence.name if fence is not None else ""


def check_fence(path: object) -> None:
    """Raise LeaseLost if a file is in a folder with a fence, and another run has taken this folder,
    or it was removed. `path` is a local path, or an object that prints as the address of a remote
    one."""
    place = _absolute(path)
    for root, fence in list(_fences.items()):
        # Another thread may begin to work in a folder meanwhile.
        if place.startswith(f"{root}/"):
            fence.check()


def _absolute(path: object) -> str:
    return str(path.absolute() if isinstance(path, Path) else path).rstrip("/")


def newest_fence(fs: Any, folder: str, of: str) -> Fence | None:
    """Return a fence with the newest token in a folder of leases, or None if there is none."""
    token = max(_tokens(fs, folder), default=0)
    return Fence(fs, folder, of, token, creator_of(fs, folder, token)["holder"]) if token else None


def creator_of(fs: Any, folder: str, token: int) -> dict[str, Any]:
    """Return the content of a token. Raise FileNotFoundError if it is gone."""
    return dict(json.loads(fs.cat_file(f"{folder}/{token}{_TOKEN}")))


def _tokens(fs: Any, folder: str) -> list[int]:
    """Return the fencing tokens in a folder of leases."""
    return [int(PurePosixPath(path).stem) for path in _listed(fs, folder) if path.endswith(_TOKEN)]


def _listed(fs: Any, folder: str) -> list[str]:
    fs.invalidate_cache(folder)
    try:
        return list(fs.ls(folder, detail=False))
    except FileNotFoundError:
        return []


@dataclass(frozen=True)
class _Other:
    """The lease of another run."""

    path: str
    lease: dict[str, Any]
    age: float
    """Seconds since its last renewal."""

    @property
    def counts(self) -> bool:
        return self.age < VALID_S


class Lease:
    """A lease on a folder of leases, which holds nothing else. Two runs that exclude each other and
    ask at the same moment may both back off. Other runs see the name `shard` in `at_work`. Shards
    may share the folder if their names are equal after the last hyphen. `say` receives a message
    when a renewal takes longer than RENEWAL_SLOW_S, or `take_alone` has to wait."""

    def __init__(
        self,
        fs: Any,
        folder: str,
        of: str,
        shard: str = "",
        say: Callable[[str], None] = lambda line: None,
    ):
        self._fs = fs
        self._folder = folder.rstrip("/")
        self._of = of
        self._shard = shard
        self._say = say
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path = f"{self._folder}/{self._name}.json"
        self._shared = True
        self.fence = Fence(fs, self._folder, of)
        self._taken = 0.0  # on this machine's clock
        self._renewed = 0.0  # on `_clock`
        self.refused_by: list[dict[str, Any]] = []
        """The leases of other runs that forbade the last `take`."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, shared: bool) -> bool:
        """Acquire the lease, or change its mode. `shared` allows other holders with shared leases.
        Return False, and hold none, if the lease of another run forbids it."""
        self.release()
        self._shared = shared
        self._taken = time.time()
        self.fence.token = 0
        # Before writing: a run that creates a token later sees this lease.
        tokens = _tokens(self._fs, self._folder)
        self._write()
        # Look after writing: of two runs that ask at once, at least one sees the other.
        found = self._found()
        valid = [other.lease for other in found if other.counts]
        self.refused_by = [lease for lease in valid if not self._shares(lease)]
        if self.refused_by:
            self._remove(self._path)
            return False
        for other in found:
            if other.age > _KEPT_S:
                self._remove(other.path)
        self.fence.token, self.fence.holder = self._next_token(tokens, valid)
        self._write()
        self._thread = threading.Thread(target=self._renew_until_stopped, daemon=True)
        self._thread.start()
        return True

    def take_alone(self) -> bool:
        """Acquire the lease exclusively. Wait up to a minute for the lease of a killed run to
        expire. Return False, and hold none, if a run that is alive renews a lease that forbids this
        one."""
        known = dict[tuple[str, float], float]()
        pauses = chain(_PAUSES_S, repeat(_PAUSES_S[-1]))
        while not self.take(shared=False):
            if not known:
                self._say(
                    f"{self._of} was in use: waiting up to a minute to see if that run was killed"
                )
            for other in self.refused_by:
                # A run that waits like this one takes its lease again and again, and must not be
                # taken for one at work.
                lease = str(other["holder"]), float(other["taken"])
                if other["renewed"] - known.setdefault(lease, other["renewed"]) > 0.9 * RENEW_S:
                    return False
            # Random, because two that meet both back off.
            time.sleep(next(pauses) * random.uniform(0.5, 1.5))
        return True

    def release(self) -> None:
        """Release the lease; it can be acquired again."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._stop.clear()
        with suppress(Exception):  # every store has errors of its own; the lease expires by itself
            self._remove(self._path)

    def at_work(self) -> set[str]:
        """Return the names of the shards that hold a lease, and that of this shard even if it holds
        none."""
        valid = (other.lease for other in self._found() if other.counts)
        return {str(lease["shard"]) for lease in valid if lease.get("shard")} | {self._shard} - {""}

    def is_held(self) -> bool:
        """Return whether another run holds a lease."""
        return any(other.counts for other in self._found())

    def _found(self) -> list[_Other]:
        """Return all leases of other runs, valid or expired."""
        found = [path for path in _listed(self._fs, self._folder) if not path.endswith(_TOKEN)]
        now = self._written(self._path)
        paths = [path for path in found if not path.endswith(f"/{self._name}.json")]
        return [other for other in many_at_once(partial(self._other, now=now), paths) if other]

    def _other(self, path: str, now: datetime | None) -> _Other | None:
        """Read another run's lease, or return None if it is gone. `now` is the store's time of this
        run's renewal, if known."""
        try:
            lease: dict[str, Any] = json.loads(self._fs.cat_file(path))
        except FileNotFoundError:
            return None
        written = self._written(path)
        if written is None or now is None:
            # Without the store's times, the clocks of the machines have to agree.
            return _Other(path, lease, time.time() - float(lease["renewed"]))
        # `now` is the time of this lease's renewal, so add the time since.
        return _Other(path, lease, (now - written).total_seconds() + _clock() - self._renewed)

    def _written(self, path: str) -> datetime | None:
        """Return the store's time when an object was written. Return None if it is unknown or the
        object is gone."""
        try:
            return self._fs.modified(path)
        except (NotImplementedError, FileNotFoundError):
            return None

    def _shares(self, other: Mapping[str, Any]) -> bool:
        """Return whether both leases are shared and belong to shards with equal settings."""
        alike = settings_of(str(other.get("shard", ""))) == settings_of(self._shard)
        return bool(self._shared and other.get("shared") and alike)

    def _next_token(self, known: list[int], others: list[dict[str, Any]]) -> tuple[int, str]:
        """Return the token of the shards at work, and its creator. If there is none, create the
        next one and delete the `known` ones."""
        newest = max(known, default=0)
        if newest and others:  # shards with equal settings, or this lease would have been refused
            holder = self._creator(newest).get("holder")
            if holder and any(
                lease["holder"] == holder or lease.get("token") == newest for lease in others
            ):
                return newest, holder
        content = {"holder": self._name, "shard": self._shard, "shared": self._shared}
        while True:
            newest += 1
            try:
                create(self._fs, self._path_of(newest), json.dumps(content).encode())
            except FileExistsError:  # of a run that asked at the same moment
                if self._shares(creator := self._creator(newest)):
                    return newest, creator["holder"]
                continue
            for older in known:
                self._remove(self._path_of(older))
            return newest, self._name

    def _creator(self, token: int) -> dict[str, Any]:
        """Return `creator_of` a token, or {} if the token is gone."""
        try:
            return creator_of(self._fs, self._folder, token)
        except FileNotFoundError:
            return {}

    def _path_of(self, token: int) -> str:
        return f"{self._folder}/{token}{_TOKEN}"

    def _write(self) -> None:
        lease = {"holder": self._name, "shard": self._shard, "shared": self._shared}
        lease |= {"taken": self._taken, "renewed": time.time(), "token": self.fence.token}
        self._fs.pipe_file(self._path, json.dumps(lease).encode())
        self._renewed = _clock()

    def _remove(self, path: str) -> None:
        """Delete a lease, which another run may have deleted already."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _renew_until_stopped(self) -> None:
        pause = RENEW_S
        line = f"still waiting for the store of {self._of}, which does not answer ..."
        while not self._stop.wait(pause):
            try:
                with said_if_slow(RENEWAL_SLOW_S, line, self._say):
                    self.fence.check()
                    self._write()
                pause = RENEW_S
            except LeaseLost:
                # `check` raises it in the thread of the work; this lease would keep others out.
                return
            except Exception:
                # Every store has errors of its own; a retry may succeed before the lease expires.
                pause = AGAIN_S


def settings_of(shard: str) -> str:
    """Return the part that the names of shards in one folder share: a hash of their settings."""
    return shard.rpartition("-")[2]
