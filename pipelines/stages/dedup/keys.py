"""128-bit keys of rows, spread evenly over their range, and the record types of keys and
duplicates."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

KEY = np.dtype(
    [
        ("high", "<u8"),
        ("low", "<u8"),
        ("ordinal", "<u4"),
        ("cited_high", "<u8"),
        ("cited_low", "<u8"),
    ]
)
"""A row in 36 bytes: its key in two halves, its index in the unit, and a cited value in two halves.
The cited value is the row's uid, or the row's pair if the key is the uid."""
PARTS = 256
"""A unit's records are sorted by key and can be read by the key's first byte. With 512 MB for a
range, and 300 bytes for a key, 256 ranges hold 458 million keys, about as many as the paper's
rows."""

ENTRIES = pa.schema(
    [
        ("unit", pa.int32()),
        ("ordinal", pa.int64()),
        ("first_unit", pa.int32()),
        ("first_ordinal", pa.int64()),
        ("duplicate_of", pa.string()),
        ("similarity", pa.float32()),
    ]
)
"""A duplicate: its position (`unit` is the unit's number in the plan, from 0), the position and uid
of the row that it duplicates, and for kind `semantic` the cosine from `semantic.near_copies`,
otherwise null. Files are sorted by unit and ordinal."""

Halves = NDArray[np.uint64]


def halves_of_uids(uids: Sequence[str]) -> Halves:
    """Return uids of 32 hex digits as pairs of unsigned numbers, high half first; shape (n, 2)."""
    return halves_of_digests([bytes.fromhex(uid) for uid in uids])


def halves_of_digests(digests: Sequence[bytes]) -> Halves:
    """Return the first 128 bits of each digest; shape (n, 2)."""
    short = next((digest for digest in digests if len(digest) < 16), None)
    if short is not None:
        raise ValueError(f"the digest {short.hex()!r} has {len(short)} bytes; a key needs 16")
    joined = b"".join(digest[:16] for digest in digests)
    return np.frombuffer(joined, ">u8").astype(np.uint64).reshape(-1, 2)


def uid_of(high: int, low: int) -> str:
    """Return the uid whose first 64 bits are `high` and whose last 64 bits are `low`."""
    return f"{high:016x}{low:016x}"


def spread(keys: Halves) -> Halves:
    """Map 128-bit numbers one to one so that equal ranges of the high half hold about equally many
    keys. Digests are evenly spread already, but a manifest's own uids may be consecutive numbers,
    which would all fall into one range. The map is two rounds of a Feistel network with the
    finalizer of splitmix64 (Steele et al. 2014).
    """
    high = keys[:, 0]
    low = keys[:, 1]
    low = low ^ _mixed(high)
    high = high ^ _mixed(low)
    return np.stack([high, low], axis=1)


def unspread(keys: Halves) -> Halves:
    """Invert `spread`."""
    high = keys[:, 0] ^ _mixed(keys[:, 1])
    low = keys[:, 1] ^ _mixed(high)
    return np.stack([high, low], axis=1)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2**64
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def key_records(keys: Halves, ordinals: NDArray[np.int64], cited: Halves) -> NDArray[np.void]:
    """Return the records of a unit (n,), sorted by spread key and ordinal. Keys and cited values
    are (n, 2), see `KEY`; ordinals (n,) ascend."""
    even = spread(keys)
    records = np.empty(len(keys), KEY)
    records["high"], records["low"], records["ordinal"] = even[:, 0], even[:, 1], ordinals
    records["cited_high"], records["cited_low"] = cited[:, 0], cited[:, 1]
    # A stable sort keeps equal keys in order of ordinals.
    return records[np.lexsort((even[:, 1], even[:, 0]))]


def key_parts(records: NDArray[np.void]) -> NDArray[np.int64]:
    return (records["high"] >> np.uint64(56)).astype(np.int64)
