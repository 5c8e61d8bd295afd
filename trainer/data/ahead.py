"""Copies to a GPU beside the computation: of the next batch, on a stream of its own, while this one is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, Self, TypeVar

import torch


class Movable(Protocol):
    """What can be copied to a device: a tensor, a batch."""

    def to(self, device: torch.device, *, non_blocking: bool) -> Self:
        """A copy there."""

    def pin_memory(self) -> Self:
        """A copy in page-locked memory."""

    def record_stream(self, stream: torch.Stream) -> None:
        """Its memory is used on that stream too, and not given away before that is done with it."""


Item = TypeVar("Item")
Moved = TypeVar("Moved", bound=Movable)


def one_ahead(items: Iterable[Item], begin: Callable[[Item], Item], wait: Callable[[Item], None]) -> Iterator[Item]:
    """The items after `begin`, and `wait` for what that began; it is called for the next item before one is handed
    out. None is no item."""
    begun = map(begin, items)
    ahead = next(begun, None)
    while ahead is not None:
        wait(ahead)
        item, ahead = ahead, next(begun, None)
        yield item


class ToDevice:
    """Hands out batches on a device. Those for a GPU come in page-locked memory and are copied one ahead; on a CPU they
    are handed out as they come."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, items: Iterator[tuple[Moved, Item]]) -> Iterator[tuple[Moved, Item]]:
        """Batches, and what comes along with each."""
        return items if self._stream is None else one_ahead(items, self._begin, self._wait)

    def _begin(self, item: tuple[Moved, Item]) -> tuple[Moved, Item]:
        with torch.cuda.stream(self._stream):
            return item[0].to(self._device, non_blocking=True), item[1]

    def _wait(self, item: tuple[Moved, Item]) -> None:
        """The computation waits for the copy, this process does not."""
        assert self._stream is not None
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        item[0].record_stream(computing)
