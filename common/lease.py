"""A lock in an object store, which has none: an object that its holder renews every few seconds, and that counts for
less than a minute. Its age is told by the store's clock, for those of two machines may differ by as much. Leases of
killed runs are removed by later ones.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

RENEW_S, AGAIN_S, VALID_S = 10.0, 5.0, 45.0
"""Between renewals, after one that failed, and how long a lease counts."""
SLOW_S = 4.0
"""A renewal that takes longer is reported: what else waits for the store then is silent, for minutes."""
_KEPT_S = 3600.0
"""A lease that was not renewed for so long is removed; long after it ceased to count, for its holder may have slept."""
_PAUSES_S = (2.0, 4.0, 8.0)
"""Before those ask again who met each other's lease."""
_CONNECTIONS = 32


class LeaseLost(RuntimeError):
    """A lease that could not be renewed in time, and that another run has taken the place of."""


@dataclass(frozen=True)
class _Other:
    """The lease of somebody else."""

    path: str
    lease: dict[str, Any]
    age: float
    """Seconds since it was renewed."""

    @property
    def counts(self) -> bool:
        return self.age < VALID_S


class Lease:
    """Two that ask at the same moment both see the other's lease, and both give way.

    Args:
        fs: a file system of fsspec.
        folder: path of the folder of leases in it; nothing else lies there.
        of: what the lease is of, for messages.
        shard: what the others see of this one in `at_work`.
        say: gets a line for people where the store does not answer while the lease is held.
    """

    def __init__(self, fs: Any, folder: str, of: str, shard: str = "", say: Callable[[str], None] = lambda line: None):
        self._fs, self._folder, self._of, self._shard, self._say = fs, folder.rstrip("/"), of, shard, say
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path, self._shared = f"{self._folder}/{self._name}.json", True
        self._renewed = 0.0  # by this machine's monotonic clock
        self._lost_to = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, shared: bool) -> bool:
        """Take it, or change what is held; `shared`: others may have one too that say the same. False where others
        forbid it; then nothing is held."""
        self.release()
        self._shared, self._lost_to = shared, ""
        self._write()
        found = self._found()
        if self._forbidding(found):
            self._remove(self._path)
            return False
        for other in found:
            if other.age > _KEPT_S:
                self._remove(other.path)
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()
        return True

    def take_alone(self) -> bool:
        """Take it, for this one only. Asks several times, at random moments, for two that met have both given way."""
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
        with suppress(Exception):  # every store has errors of its own; the lease runs out by itself
            self._remove(self._path)

    def check(self) -> None:
        """Raises LeaseLost where this run can no longer count on being the only one, or among shards only."""
        if self._lost_to:
            raise LeaseLost(
                f"the store did not take the lease of this run for {VALID_S:.0f} seconds, and {self._lost_to} works "
                f"in {self._of} since; what is committed stays"
            )

    def at_work(self) -> set[str]:
        """The shards that hold one, this one among them."""
        return {str(lease["shard"]) for lease in self.others() if lease.get("shard")} | {self._shard} - {""}

    def others(self) -> list[dict[str, Any]]:
        """The leases of others that count."""
        return [other.lease for other in self._found() if other.counts]

    def _found(self) -> list[_Other]:
        """The leases of others."""
        self._fs.invalidate_cache(self._folder)
        try:
            found = self._fs.ls(self._folder, detail=False)
        except FileNotFoundError:
            return []
        now = self._written(self._path)
        paths = [path for path in found if not path.endswith(f"/{self._name}.json")]
        with ThreadPoolExecutor(_CONNECTIONS) as pool:  # each waits for the network
            return [other for other in pool.map(partial(self._other, now=now), paths) if other]

    def _other(self, path: str, now: datetime | None) -> _Other | None:
        """A lease that is there. `now` is when the store took this one's, by its clock."""
        try:
            lease: dict[str, Any] = json.loads(self._fs.cat_file(path))
        except FileNotFoundError:
            return None
        written = self._written(path)
        if written is None or now is None:  # a store that does not say: the clocks of the machines have to agree
            return _Other(path, lease, time.time() - float(lease["renewed"]))
        return _Other(path, lease, (now - written).total_seconds() + time.monotonic() - self._renewed)

    def _written(self, path: str) -> datetime | None:
        """When the store took an object, by its clock."""
        try:
            found: datetime = self._fs.modified(path)
        except (NotImplementedError, FileNotFoundError):
            return None
        return found

    def _forbidding(self, others: list[_Other]) -> list[str]:
        """Who does not let this run have the folder."""
        counting = (other.lease for other in others if other.counts)
        return [str(lease["holder"]) for lease in counting if not (self._shared and lease["shared"])]

    def _write(self) -> None:
        lease = {"holder": self._name, "shard": self._shard, "shared": self._shared, "renewed": time.time()}
        self._fs.pipe_file(self._path, json.dumps(lease).encode())
        self._renewed = time.monotonic()

    def _remove(self, path: str) -> None:
        """A lease, which somebody else may have removed."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _renew(self) -> None:
        pause = RENEW_S
        while not self._stop.wait(pause):
            slow = threading.Timer(
                SLOW_S, self._say, [f"still waiting for the store of {self._of}, which does not answer ..."]
            )
            slow.daemon = True
            slow.start()
            try:
                gone = not self._fs.exists(self._path)  # taken for that of a killed run, at the moment of its renewal
                late = time.monotonic() - self._renewed > VALID_S
                self._write()
                if (gone or late) and (others := self._forbidding(self._found())):
                    self._lost_to = others[0]
                pause = RENEW_S
            except Exception:  # every store has errors of its own; what fails now may pass before the lease runs out
                pause = AGAIN_S
            finally:
                slow.cancel()
