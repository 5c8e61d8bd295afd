"""The loader's worker processes: batches by position, a board of what each one does, and who may end them.

A launcher (torchrun, `scancel`) signals every process of a run, workers too, and a trainer without workers cannot end
its step or write its checkpoint. So workers leave signals to their trainer: what asks them to stop is ignored until
the trainer itself has said that it needs them no more.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from open_diht.trainer.data.errors import DataError

_STATE_BYTES = 512
_STOPS = (signal.SIGTERM, signal.SIGINT)


Made = TypeVar("Made", covariant=True)


class Makes(Protocol[Made]):
    """Makes batches by position, the same whatever it made before."""

    state: Callable[[str], None]
    """Told what is being done, for the watchdog."""

    def batch(self, epoch: int, number: int) -> tuple[Made, Any]:
        """A batch, and what was bad on the way."""


class Batches(Dataset[tuple[Any, Any]]):
    """Batches by (epoch, number), made in this process or in workers."""

    def __init__(self, maker: Makes[Any], workers: int):
        self._maker = maker
        self._board = torch.zeros(max(workers, 1), _STATE_BYTES, dtype=torch.uint8).share_memory_()
        self._since = torch.zeros(max(workers, 1), dtype=torch.float64).share_memory_()
        self._pids = torch.zeros(max(workers, 1), dtype=torch.int64).share_memory_()
        self._dismissed = torch.zeros(1, dtype=torch.bool).share_memory_()
        _ALL.add(self)

    def __getitem__(self, position: tuple[int, int]) -> tuple[Any, Any]:
        try:
            item = self._maker.batch(*position)
        except DataError as error:
            return error, None  # raised, torch would hand it over with the lines of the worker's stack in its message
        self._maker.state("idle")
        return item

    def begin(self, worker: int) -> None:
        """Called in each worker before its first batch."""
        self._pids[worker] = os.getpid()
        self._maker.state = _Writer(self._board.numpy()[worker], self._since.numpy(), worker)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end_where_dismissed)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Workers are started meanwhile: they inherit that signals wait, until `begin` says what these do."""
        self._dismissed[0] = False
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def dismiss(self) -> None:
        """The workers are needed no more: from now on SIGTERM, which torch sends to those that are late, ends them."""
        self._dismissed[0] = True

    def end_workers(self) -> None:
        """End the workers: torch would wait five seconds for each that hangs."""
        self.dismiss()
        mine = set(self._pids.tolist())
        for child in multiprocessing.active_children():
            if child.pid in mine:
                child.terminate()

    def _end_where_dismissed(self, number: int, frame: FrameType | None) -> None:
        if self._dismissed[0]:
            os._exit(0)

    def states(self) -> str:
        """One line on what the workers are doing."""
        now = time.time()
        lines = []
        for worker, (text, since) in enumerate(zip(self._board.numpy(), self._since.tolist(), strict=True)):
            said = text.tobytes().rstrip(b"\0").decode("utf-8", "replace") or "starting"
            lines.append(f"worker {worker}: {said}" + (f" for {now - since:.0f} s" if since else ""))
        return "; ".join(lines)


class _Writer:
    """Writes one worker's line on the board."""

    def __init__(self, line: Any, since: Any, worker: int):
        self._line, self._since, self._worker = line, since, worker

    def __call__(self, text: str) -> None:
        said = np.frombuffer(text.encode("utf-8", "replace")[:_STATE_BYTES], np.uint8)
        self._line[: len(said)], self._line[len(said) :] = said, 0
        self._since[self._worker] = time.time()


_ALL: weakref.WeakSet[Batches] = weakref.WeakSet()


@atexit.register  # after multiprocessing's own, so before it: that one waits for ever for children that hang
def _end_all() -> None:
    for batches in _ALL:
        batches.end_workers()
