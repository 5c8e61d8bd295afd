"""Prepare the items of batches in threads while an earlier batch is processed: a GPU needs many
cores to decode its images."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Name = TypeVar("_Name")
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")
_AHEAD = 2  # batches in preparation while the caller processes one


def prepared_ahead(
    batches: Iterable[tuple[_Name, Sequence[_Given]]],
    prepare: Callable[[_Given], _Made],
    threads: int,
) -> Iterator[tuple[_Name, list[_Made]]]:
    """Yield each batch, a pair of a label and items, with its items prepared, in order. With 0
    threads the calling thread prepares."""
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
