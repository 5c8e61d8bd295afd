"""What is brought to a store while the training goes on: one job after the other, in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from open_diht.trainer.checkpoint import CheckpointError
from open_diht.trainer.remote import StoreError

PAUSES_S = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Before what has failed is tried again, beyond what the store's client tries itself: two minutes."""


class Uploads:
    """The first job that fails for good is the last one: its error is raised by whoever asks next. The thread ends with
    its process, in the midst of a job if need be."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    @property
    def idle(self) -> bool:
        """Nothing is left to do."""
        return self._jobs.unfinished_tasks == 0

    def later(self, job: Callable[[], None]) -> None:
        """Do it after what was asked for before. A job may be done again where it has failed."""
        self._check()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def wait(self) -> float:
        """Until all is done; the seconds that took."""
        began = time.monotonic()
        self._jobs.join()
        self._check()
        return time.monotonic() - began

    def end(self) -> None:
        """Nothing more comes; does not wait."""
        if self._thread is not None:
            self._jobs.put(None)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._error is None:
                    _tried(job)
            except Exception as error:  # of another thread: it is raised in that of the training
                self._error = error
            finally:
                self._jobs.task_done()


def _tried(job: Callable[[], None]) -> None:
    for pause_s in PAUSES_S:
        try:
            return job()
        except (StoreError, CheckpointError):
            time.sleep(pause_s)
    job()
