"""Batches by position, one after the other: made in this process or in workers, handed out on the device that computes.

Workers are torch's; they take whole batches and hand them back in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from open_diht.trainer.data.ahead import Movable, ToDevice
from open_diht.trainer.data.errors import DataError, LoaderStalled
from open_diht.trainer.data.settings import DataSettings
from open_diht.trainer.data.workers import Batches, Makes

CPU = torch.device("cpu")
Made = TypeVar("Made", bound=Movable)


class Feed(Generic[Made]):
    """Calls for batches, with what was bad on the way to each.

    Args:
        maker: makes a batch of its epoch and number.
        settings: `workers`, `prefetch` and `stall_s` of them.
        device: where batches are handed out.
    """

    def __init__(self, maker: Makes[Made], settings: DataSettings, device: torch.device = CPU):
        self._maker, self._settings, self._pin = maker, settings, device.type == "cuda"
        self._to_device = ToDevice(device)
        self._batches = Batches(maker, settings.workers)
        self._positions = _Positions()
        self._workers: DataLoader[Any] | None = None

    def __call__(self, epoch: int, start: int, end: int) -> Iterator[tuple[Made, Any]]:
        """Batches start to end - 1 of an epoch. Raises `LoaderStalled`, and what `maker` does."""
        return self._to_device((self._from_workers if self._settings.workers else self._here)(epoch, start, end))

    def _here(self, epoch: int, start: int, end: int) -> Iterator[tuple[Any, Any]]:
        for number in range(start, end):
            batch, bad = self._maker.batch(epoch, number)
            yield batch.pin_memory() if self._pin else batch, bad

    def _from_workers(self, epoch: int, start: int, end: int) -> Iterator[tuple[Any, Any]]:
        self._positions.set(epoch, start, end)
        if self._workers is None:
            self._workers = DataLoader(
                self._batches,
                batch_size=None,
                sampler=self._positions,
                num_workers=self._settings.workers,
                prefetch_factor=self._settings.prefetch,
                persistent_workers=True,
                timeout=self._settings.stall_s,
                pin_memory=self._pin,
                collate_fn=_as_it_is,
                worker_init_fn=self._batches.begin,
                generator=torch.Generator(),  # its seed would else be drawn from the generator of the training
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
                        f"batch {number} of epoch {epoch} did not come within data.stall_s "
                        f"{self._settings.stall_s:g} s; {self._batches.states()}"
                    ) from error
                error.add_note(f"while waiting for batch {number} of epoch {epoch}; {self._batches.states()}")
                raise
            except (ConnectionError, EOFError) as error:
                raise RuntimeError(
                    f"a worker ended while it handed over batch {number} of epoch {epoch}; {self._batches.states()}"
                ) from error
            if isinstance(item[0], DataError):
                raise item[0]
            yield item

    def close(self) -> None:
        """End the workers."""
        self._batches.dismiss()
        self._workers = None


class _Positions(torch.utils.data.Sampler[tuple[int, int]]):
    """(epoch, batch) in order; set anew for every epoch."""

    def __init__(self) -> None:
        self._epoch, self._range = 0, range(0)

    def set(self, epoch: int, start: int, end: int) -> None:
        self._epoch, self._range = epoch, range(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self._epoch, number) for number in self._range])

    def __len__(self) -> int:
        return len(self._range)


def _as_it_is(item: Any) -> Any:
    return item
