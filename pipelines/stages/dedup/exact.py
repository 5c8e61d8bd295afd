"""Exact duplicates of a range of keys: the first row of each key stays, whatever the order of work. And rows that share
a key though they differ.

A range is read unit by unit, in the order of the plan. Kept in memory are the distinct keys seen so far and a batch of
waiting ones, never the duplicates: an image that occurs a million times takes the room of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.pipelines.stages.dedup.keys import ENTRIES, KEY, PARTS, uid_of, unspread

BATCH = 1 << 18
KEY_BYTES = 300
"""Peak memory per key of a range, as measured by benchmarks/dedup.py: the seen, the waiting, and the sort of both."""

_SEEN = np.dtype([*((name, KEY[name]) for name in KEY.names or ()), ("unit", "<u4")])


def ranges_of(keys: int, memory: int) -> int:
    """Into how many ranges `keys` keys are cut so that one fits into `memory` bytes: a power of two up to `PARTS`."""
    ranges = 1
    while ranges < PARTS and keys * KEY_BYTES > memory * ranges:
        ranges *= 2
    return ranges


def duplicates(slices: Iterable[tuple[int, NDArray[np.void]]], batch: int = BATCH) -> Iterator[pa.Table]:
    """Yields the duplicates among the keys of a range as tables of `ENTRIES`, sorted by (unit, ordinal) throughout.

    Args:
        slices: (number of the unit, its records of the range, sorted as `key_records` does), units ascending.
        batch: waiting keys before they are compared with those seen; results do not depend on it.

    Raises:
        ValueError: units do not ascend.
    """
    for later, first in _repeated(slices, batch):
        yield _entries(later, first, _uids(first["cited_high"], first["cited_low"]))


def shared(slices: Iterable[tuple[int, NDArray[np.void]]], batch: int = BATCH) -> Iterator[pa.Table]:
    """Yields the rows whose uid an earlier row has that is another pair, as `duplicates` does.

    Args:
        slices: as for `duplicates`; the keys are uids, and what they cite is equal for equal pairs.
        batch: see `duplicates`.
    """
    for later, first in _repeated(slices, batch):
        differ = (later["cited_high"] != first["cited_high"]) | (later["cited_low"] != first["cited_low"])
        if differ.any():
            later, first = later[differ], first[differ]
            keys = unspread(np.stack([first["high"], first["low"]], axis=1))
            yield _entries(later, first, _uids(keys[:, 0], keys[:, 1]))


def _repeated(
    slices: Iterable[tuple[int, NDArray[np.void]]], batch: int
) -> Iterator[tuple[NDArray[np.void], NDArray[np.void]]]:
    """Yields the rows whose key has occurred before, by (unit, ordinal), and for each the first row of that key."""
    seen, waiting, count, last = np.empty(0, _SEEN), [], 0, -1
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
        if count >= max(batch, len(seen) // 2):  # in proportion to what was seen, so that each key is sorted rarely
            seen, later, first = _compare(seen, waiting)
            waiting, count = [], 0
            if len(later):
                yield later, first
    if waiting:
        _, later, first = _compare(seen, waiting)
        if len(later):
            yield later, first


def _compare(
    seen: NDArray[np.void], waiting: list[NDArray[np.void]]
) -> tuple[NDArray[np.void], NDArray[np.void], NDArray[np.void]]:
    """The distinct keys of both, what of the waiting repeats one, and the first row of each of these keys. Within equal
    keys the earlier row stands first: the seen before the waiting, these in order of units, and each unit's in order of
    ordinals."""
    rows = np.concatenate([seen, *waiting])
    high, low = np.ascontiguousarray(rows["high"]), np.ascontiguousarray(rows["low"])
    order = np.argsort(high, kind="stable")  # sorted runs are merged
    high, low = high[order], low[order]
    alike = high[1:] == high[:-1]
    if (alike & (low[1:] != low[:-1])).any():  # keys that share only their high half may be interleaved
        order = np.lexsort((rows["low"], rows["high"]))
        high, low = rows["high"][order], rows["low"][order]
        alike = high[1:] == high[:-1]
    new = np.concatenate([[True], ~(alike & (low[1:] == low[:-1]))])
    place_of_first = np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))
    again = np.flatnonzero(~new)
    later, first = rows[order[again]], rows[order[place_of_first[again]]]
    sequence = np.lexsort((later["ordinal"], later["unit"]))
    return rows[order[new]], later[sequence], first[sequence]


def _uids(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> list[str]:
    return [uid_of(*halves) for halves in zip(high.tolist(), low.tolist(), strict=True)]


def _entries(later: NDArray[np.void], first: NDArray[np.void], uids: list[str]) -> pa.Table:
    columns = [
        pa.array(later["unit"].astype(np.int32)),
        pa.array(later["ordinal"].astype(np.int64)),
        pa.array(first["unit"].astype(np.int32)),
        pa.array(first["ordinal"].astype(np.int64)),
        pa.array(uids, pa.string()),
        pa.nulls(len(later), pa.float32()),
    ]
    return pa.table(columns, schema=ENTRIES)
