"""Files of fixed-size records in parts. A reader can read a range of parts alone.

Layout: 8 bytes magic, then little-endian uint64: bytes of a record, number of parts P, P + 1
offsets (in records); then the records. A reader knows P, so it reads the header and the slice with
at most two range requests, from a disk or an object store.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

MAGIC = b"DIHTSLC1"

ReadRange = Callable[[int, int], bytes]
"""Returns bytes [start, stop) of a file."""


class BadSlices(ValueError):
    """The error that a file is not of this kind, is truncated or holds other records."""


def pack(records: NDArray[np.void], parts_of: NDArray[np.int64], parts: int) -> bytes:
    """Return the content of a file of records (n,), whose parts (n,) count from 0 and ascend; a
    part may be empty."""
    if len(parts_of) and (
        parts_of[0] < 0 or parts_of[-1] >= parts or (np.diff(parts_of) < 0).any()
    ):
        raise ValueError(f"parts must ascend within 0 and {parts - 1}")
    offsets = np.searchsorted(parts_of, np.arange(parts + 1))
    header = np.array([records.dtype.itemsize, parts, *offsets], "<u8")
    return MAGIC + header.tobytes() + records.tobytes()


def read_slice(
    read: ReadRange, dtype: np.dtype, parts: int, first: int, stop: int, name: str
) -> NDArray[np.void]:
    """Return the records of parts [first, stop). `read` reads a range of the file's bytes. Raise
    BadSlices if the file is not of this kind, is truncated, or holds other records."""
    begin = len(MAGIC) + 8 * (parts + 3)
    head = read(0, begin)
    if len(head) < begin or head[: len(MAGIC)] != MAGIC:
        raise BadSlices(
            f"{name} is not a file of sliced records; remove it with its commit record and run"
            " again"
        )
    itemsize, count, *offsets = np.frombuffer(head, "<u8", offset=len(MAGIC)).tolist()
    if itemsize != dtype.itemsize or count != parts:
        raise BadSlices(
            f"{name} holds records of {itemsize} bytes in {count} parts, not of {dtype.itemsize}"
            f" bytes in {parts}; it is of another version: remove it with its commit record and run"
            " again"
        )
    low = begin + offsets[first] * itemsize
    high = begin + offsets[stop] * itemsize
    content = read(low, high) if high > low else b""
    if len(content) != high - low:
        raise BadSlices(f"{name} is truncated; remove it with its commit record and run again")
    return np.frombuffer(content, dtype)
