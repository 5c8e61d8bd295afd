"""Produce batches by position, in this process or in workers, and return them on the training's
device.

Workers are torch's; each makes whole batches, which are returned in order. A batch for a GPU is put
into page-locked memory and copied on a separate stream while the one before it is trained on.

A launcher (torchrun, `scancel`) signals every process of a run, including workers, and a trainer
without workers cannot finish its step or write its checkpoint. So workers ignore SIGINT, and
SIGTERM until the trainer dismisses them.
"""

import atexit
import multiprocessing
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from open_diht.trainer.data.errors import LoaderStalled
from open_diht.trainer.data.settings import DataSettings
from open_diht.trainer.errors import TrainingError

CPU = torch.device("cpu")
Item = TypeVar("Item")
_STATE_BYTES = 512  # of a status line, which names a path or URL and a key; longer ones are cut
_STOPS = (signal.SIGTERM, signal.SIGINT)


class Makes(Protocol):
    """A maker of batches by position, whose result does not depend on earlier calls."""

    state: Callable[[str], None]
    """Receives a line about the current work, which is reported if the work stalls."""

    def batch(self, epoch: int, number: int) -> tuple[Any, Any]:
        """Return a batch, and the bad samples met while making it."""


class Batches(Dataset[tuple[Any, Any]]):
    """A data set of batches by (epoch, number), from which torch's workers read."""

    def __init__(self, maker: Makes, workers: int):
        self._maker = maker
        self._board = torch.zeros(
            max(workers, 1), _STATE_BYTES, dtype=torch.uint8
        ).share_memory_()  # status lines
        self._since = torch.zeros(max(workers, 1), dtype=torch.float64).share_memory_()
        self._pids = torch.zeros(max(workers, 1), dtype=torch.int64).share_memory_()
        self._dismissed = torch.zeros(1, dtype=torch.bool).share_memory_()
        _ALL.add(self)  # for the exit handler

    def __getitem__(self, position: tuple[int, int]) -> tuple[Any, Any]:
        try:
            item = self._maker.batch(*position)
        except TrainingError as error:
            return error, None  # if raised, torch would put the worker's stack into its message
        self._maker.state("idle")
        return item

    def begin(self, worker: int) -> None:
        """Prepare a worker before its first batch: set its status line and its signal handlers."""
        self._pids[worker] = os.getpid()
        line = self._board.numpy()[worker]
        since = self._since.numpy()

        def write(text: str) -> None:
            said = np.frombuffer(text.encode("utf-8", "replace")[:_STATE_BYTES], np.uint8)
            line[: len(said)], line[len(said) :] = said, 0
            since[worker] = time.time()

        self._maker.state = write
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end_where_dismissed)
        # Signals that came before are handled now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Block SIGTERM and SIGINT while workers start, so that workers too block them until
        `begin` sets handlers."""
        self._dismissed[0] = False
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def dismiss(self) -> None:
        """Let SIGTERM end the workers from now on. Torch sends it to workers that do not end in
        time."""
        self._dismissed[0] = True

    def end_workers(self) -> None:
        """Send SIGTERM to the workers at once. Torch would first wait five seconds for each one
        that hangs."""
        self.dismiss()
        mine = set(self._pids.tolist())
        for child in multiprocessing.active_children():
            if child.pid in mine:
                child.terminate()

    def _end_where_dismissed(self, number: int, frame: FrameType | None) -> None:
        if self._dismissed[0]:
            os._exit(0)  # at once, without exit handlers

    def states(self) -> str:
        """Return a line about the workers' current work."""
        now = time.time()
        lines = []
        for worker, (text, since) in enumerate(
            zip(self._board.numpy(), self._since.tolist(), strict=True)
        ):
            said = text.tobytes().rstrip(b"\0").decode("utf-8", "replace") or "starting"
            lines.append(
                f"worker {worker}: {said}" + (f" for {now - since:.0f} s" if since else "")
            )
        return "; ".join(lines)


_ALL: weakref.WeakSet[Batches] = weakref.WeakSet()


# runs before multiprocessing's handler, which waits forever for children that hang
@atexit.register
def _end_all() -> None:
    for batches in _ALL:
        batches.end_workers()


class Feed:
    """A source of batches, each with the bad samples met while making it."""

    def __init__(self, maker: Makes, settings: DataSettings, device: torch.device = CPU):
        self._maker = maker
        self._settings = settings
        self._pin = device.type == "cuda"
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._batches = Batches(maker, settings.workers)
        self._positions: list[
            tuple[int, int]
        ] = []  # of the workers; torch reads the list again for every epoch
        self._workers: DataLoader[Any] | None = None

    def __call__(self, epoch: int, start: int, end: int) -> Iterator[tuple[Any, Any]]:
        """Yield batches start to end - 1 of an epoch, on the device. Raises `LoaderStalled`, the
        maker's errors, and RuntimeError if a worker ended."""
        items = (self._from_workers if self._settings.workers else self._here)(epoch, start, end)
        return (
            items
            if self._stream is None
            else one_ahead(items, self._begin_copy, self._wait_for_copy)
        )

    def _begin_copy(self, item: tuple[Any, Any]) -> tuple[Any, Any]:
        with torch.cuda.stream(self._stream):
            return item[0].to(self._device, non_blocking=True), item[1]

    def _wait_for_copy(self, item: tuple[Any, Any]) -> None:
        """Make the computation's stream wait for the copy, without blocking this process."""
        assert self._stream is not None
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        item[0].record_stream(computing)

    def _here(self, epoch: int, start: int, end: int) -> Iterator[tuple[Any, Any]]:
        for number in range(start, end):
            batch, bad = self._maker.batch(epoch, number)
            yield batch.pin_memory() if self._pin else batch, bad

    def _from_workers(self, epoch: int, start: int, end: int) -> Iterator[tuple[Any, Any]]:
        self._positions[:] = [(epoch, number) for number in range(start, end)]
        if self._workers is None:
            self._workers = DataLoader(
                self._batches,
                batch_size=None,  # items are whole batches
                sampler=self._positions,
                num_workers=self._settings.workers,
                prefetch_factor=self._settings.prefetch,
                persistent_workers=True,  # for all epochs
                timeout=self._settings.stall_s,
                pin_memory=self._pin,
                collate_fn=_unchanged,
                worker_init_fn=self._batches.begin,
                # otherwise its seed would be drawn from the training's generator
                generator=torch.Generator(),
            )
        with self._batches.starting():
            batches = iter(self._workers)
        for number in range(start, end):
            try:
                item = next(batches)
            except RuntimeError as error:
                if "timed out" in str(error):
                    self._batches.end_workers()
                    raise LoaderStalled(
                        f"batch {number} of epoch {epoch} did not arrive within data.stall_s "
                        f"{self._settings.stall_s:g} s; {self._batches.states()}"
                    ) from error
                error.add_note(
                    f"while waiting for batch {number} of epoch {epoch}; {self._batches.states()}"
                )
                raise
            except (ConnectionError, EOFError) as error:
                raise RuntimeError(
                    f"a worker ended while it handed over batch {number} of epoch {epoch};"
                    f" {self._batches.states()}"
                ) from error
            if isinstance(item[0], TrainingError):  # see `Batches.__getitem__`
                raise item[0]
            yield item

    def close(self) -> None:
        """End the workers."""
        self._batches.dismiss()
        self._workers = None


def one_ahead(
    items: Iterable[Item], begin: Callable[[Item], Item], wait: Callable[[Item], None]
) -> Iterator[Item]:
    """Yield items (never None), each after the next one has begun."""
    begun = map(begin, items)
    ahead = next(begun, None)
    while ahead is not None:
        wait(ahead)
        item, ahead = ahead, next(begun, None)
        yield item


def _unchanged(item: Any) -> Any:
    return item
