"""Find exact duplicates in a range of keys, and rows that share a key although they differ.

The first row of each key is kept, whatever the order of work. A range is read unit by unit, in the
order of the plan. Memory holds the distinct keys so far and a batch of waiting ones, but not the
duplicates: an image that occurs a million times takes the space of one.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.pipelines.stages.dedup.keys import ENTRIES, KEY, PARTS, uid_of, unspread

BATCH = 1 << 18
KEY_BYTES = 300
"""Rough peak memory per key of a range, for the seen keys, the waiting keys, and sorting both."""

_SEEN = np.dtype([*((name, KEY[name]) for name in KEY.names or ()), ("unit", "<u4")])


def ranges_of(keys: int, memory: int) -> int:
    """Return the number of ranges, a power of two up to `PARTS`, so that each fits into `memory`
    bytes if possible."""
    ranges = 1
    while ranges < PARTS and keys * KEY_BYTES > memory * ranges:
        ranges *= 2
    return ranges


def duplicates(
    slices: Iterable[tuple[int, NDArray[np.void]]], batch: int = BATCH
) -> Iterator[pa.Table]:
    """Yield the duplicates among the keys of a range as tables of `ENTRIES`, sorted by (unit,
    ordinal) overall. `slices` are (number of the unit, its records of the range, sorted like those
    of `key_records`), units ascending. Results do not depend on `batch`, the fewest waiting keys
    that are compared with the seen keys.
    """
    for later, first in _repeated(slices, batch):
        yield _entries(later, first, _uids(first["cited_high"], first["cited_low"]))


def shared(
    slices: Iterable[tuple[int, NDArray[np.void]]], batch: int = BATCH
) -> Iterator[pa.Table]:
    """Yield the rows that are another pair than the first row with their uid, in the form of
    `duplicates`. The keys of `slices` are uids. Their cited values are equal for equal pairs."""
    for later, first in _repeated(slices, batch):
        differ = (later["cited_high"] != first["cited_high"]) | (
            later["cited_low"] != first["cited_low"]
        )
        if differ.any():
            later, first = later[differ], first[differ]
            keys = unspread(np.stack([first["high"], first["low"]], axis=1))
            yield _entries(later, first, _uids(keys[:, 0], keys[:, 1]))


def _repeated(
    slices: Iterable[tuple[int, NDArray[np.void]]], batch: int
) -> Iterator[tuple[NDArray[np.void], NDArray[np.void]]]:
    """Yield the rows whose key occurred before, by (unit, ordinal), each with the first row that
    has this key."""
    seen = np.empty(0, _SEEN)
    waiting = []
    count = 0
    last = -1
    for unit, records in slices:
        if unit <= last:
            raise ValueError(f"unit {unit} comes after unit {last}; units must ascend")
        last = unit
        if not len(records):
            continue
        placed = np.empty(len(records), _SEEN)
        for name in KEY.names or ():
            placed[name] = records[name]
        placed["unit"] = unit
        waiting.append(placed)
        count += len(placed)
        if count >= max(batch, len(seen) // 2):
            # In proportion to the seen keys, so that each is sorted rarely.
            seen, later, first = _compare(seen, waiting)
            waiting = []
            count = 0
            if len(later):
                yield later, first
    if waiting:
        _, later, first = _compare(seen, waiting)
        if len(later):
            yield later, first


def _compare(
    seen: NDArray[np.void], waiting: list[NDArray[np.void]]
) -> tuple[NDArray[np.void], NDArray[np.void], NDArray[np.void]]:
    """Return the distinct keys, the waiting rows whose key occurred before, and for each of them
    the first row with its key. Among equal keys the earlier row comes first: seen before waiting,
    then by unit, then by ordinal.
    """
    rows = np.concatenate([seen, *waiting])
    high = np.ascontiguousarray(rows["high"])
    low = np.ascontiguousarray(rows["low"])
    order = np.argsort(high, kind="stable")  # merges the sorted runs
    high, low = high[order], low[order]
    alike = high[1:] == high[:-1]
    if (
        alike & (low[1:] != low[:-1])
    ).any():  # keys that share only the high half may be interleaved
        order = np.lexsort((rows["low"], rows["high"]))
        high = rows["high"][order]
        low = rows["low"][order]
        alike = high[1:] == high[:-1]
    new = np.concatenate([[True], ~(alike & (low[1:] == low[:-1]))])
    place_of_first = np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))
    again = np.flatnonzero(~new)
    later = rows[order[again]]
    first = rows[order[place_of_first[again]]]
    sequence = np.lexsort((later["ordinal"], later["unit"]))
    return rows[order[new]], later[sequence], first[sequence]


def _uids(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> list[str]:
    return [uid_of(*halves) for halves in zip(high.tolist(), low.tolist(), strict=True)]


def _entries(later: NDArray[np.void], first: NDArray[np.void], uids: list[str]) -> pa.Table:
    where = [later["unit"], later["ordinal"], first["unit"], first["ordinal"]]
    return pa.table([*where, uids, pa.nulls(len(later), pa.float32())], schema=ENTRIES)
