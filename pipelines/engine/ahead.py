"""Batches whose items threads prepare while something else is at an earlier one: a GPU takes the images of a dozen
cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Name = TypeVar("_Name")
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")
_AHEAD = 2  # batches that are prepared while one is worked at


def prepared_ahead(
    batches: Iterable[tuple[_Name, Sequence[_Given]]], prepare: Callable[[_Given], _Made], threads: int
) -> Iterator[tuple[_Name, list[_Made]]]:
    """Each batch with its items prepared, in order.

    Args:
        batches: names, or what else goes with a batch, and items.
        prepare: makes one of an item.
        threads: how many prepare; 0: whoever asks for a batch, for nobody is free meanwhile.
    """
    if not threads:
        yield from ((name, list(map(prepare, items))) for name, items in batches)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[_Name, Iterator[_Made]]] = deque()
        for name, items in batches:
            waiting.append((name, pool.map(prepare, items)))
            if len(waiting) > _AHEAD:
                first, made = waiting.popleft()
                yield first, list(made)
        yield from ((name, list(made)) for name, made in waiting)
