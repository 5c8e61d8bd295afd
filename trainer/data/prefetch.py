"""Fetches the remote shards of the next window of the shuffle while this one is read.

Without it all workers would wait at every border of a window, where new shards come up all at once. The cache must then
hold two windows.
"""

from __future__ import annotations

import threading

from open_diht.trainer.data.errors import DataError
from open_diht.trainer.data.reader import Reader


class Prefetch:
    """A thread that keeps the cache one window ahead of the batch last handed out; none where all shards are local."""

    def __init__(self, reader: Reader, batches: int):
        self._batches = batches
        self._reader = reader.clone() if reader.reads_remote else None
        self._moved = threading.Condition()
        self._now: int | None = None  # the batch last handed out; None: stop
        self._thread: threading.Thread | None = None

    def at(self, epoch: int, number: int) -> None:
        """Batch `number` of `epoch` has been handed out."""
        if self._reader is None:
            return
        with self._moved:
            self._now = number
            self._moved.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._reader, epoch, number), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; `at` starts a new one."""
        with self._moved:
            self._now = None
            self._moved.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, reader: Reader, epoch: int, first: int) -> None:
        known: set[tuple[int, int]] = set()
        for number in range(first, self._batches):
            with self._moved:
                self._moved.wait_for(lambda: self._now is None or number <= self._now + reader.window_batches)  # noqa: B023
                if self._now is None:
                    return
            for source, shard in sorted(reader.remote_shards(epoch, number) - known):
                known.add((source, shard))
                try:
                    reader.fetch(source, shard)
                except DataError:
                    return  # the worker that needs it will say so
