"""Copying to a store in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from open_diht.common.lease import Lease

PAUSES_S = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Pauses before a failed job is tried again, beyond what the store's client tries: two minutes."""


class Uploads:
    """An executor of one job after the other, which stops at the first that fails for good.

    The next call raises its error. The threads are daemons, unlike those of a ThreadPoolExecutor,
    for which Python waits when it exits: a second Ctrl-C ends the process in the middle of a job.
    """

    lease: Lease | None = None
    """Checked before each try of a job: a run must not write to a store that another took over."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._newest: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """All jobs are done."""
        return self._newest is None or not self._newest.is_alive()

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job after those submitted before. A job that raises RuntimeError is tried again."""
        self._raise_error()
        self._newest = threading.Thread(target=self._run, args=(job, self._newest), daemon=True)
        self._newest.start()

    def wait(self) -> float:
        """Wait until all jobs are done, and return the seconds that took."""
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
            before.join()
        pauses = iter(PAUSES_S)
        try:
            while self._error is None:
                if self.lease is not None:
                    self.lease.check()
                try:
                    return job()
                except RuntimeError:
                    if (pause_s := next(pauses, None)) is None:
                        raise
                time.sleep(pause_s)
        except Exception as error:  # raised again in the thread of the training
            self._error = error
