"""Choose samples by uid from unchanged shards: `data.subset`.

A subset is DataComp's `subset.npy`, uids as pairs of unsigned 64-bit numbers, or a text file with one uid
of 32 hex digits per line. A sorted `.npy` file is searched on the disk, so it may be larger than memory.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from open_diht.common.shard_index import ShardIndex, stamp_of
from open_diht.trainer.data.errors import BadSource

_PAIR = np.dtype("<u8,<u8")
_CHUNK = 2**20  # uids read at a time


class Subset:
    """A set of uids. A pickled copy of a sorted set opens the file again."""

    def __init__(self, path: Path):
        self._path, self._sorted = path, True
        pairs, digest = _read(path), hashlib.sha256()
        for first in range(0, len(pairs), _CHUNK):
            part = pairs[first : first + _CHUNK + 1]  # and the next one, to compare across chunks
            self._sorted = self._sorted and _rises(part)
            digest.update(part[:_CHUNK].astype(_PAIR).tobytes())
        self._pairs: Any = pairs if self._sorted else np.unique(pairs)
        self.digest = digest.hexdigest()
        """SHA-256 of the uids in the order of the file."""

    def __len__(self) -> int:
        return len(self._pairs)

    def places(self, index: ShardIndex) -> npt.NDArray[np.int64]:
        """Return the position in the set of each sample's uid, (n,); -1 if it has none, or one outside the set."""
        high, low, pairs = index.rows["uid_high"], index.rows["uid_low"], self._pairs
        first, last = np.zeros(len(high), np.int64), np.full(len(high), len(pairs), np.int64)
        for _ in range(len(pairs).bit_length()):  # one binary search for all samples
            middle = (first + last) // 2
            there = pairs[np.minimum(middle, len(pairs) - 1)]  # past the end, any value will do
            below = (there["f0"] < high) | ((there["f0"] == high) & (there["f1"] < low))
            open_ = first < last
            first, last = np.where(open_ & below, middle + 1, first), np.where(open_ & ~below, middle, last)
        there = pairs[np.minimum(first, len(pairs) - 1)]
        same = (there["f0"] == high) & (there["f1"] == low) & ((high > 0) | (low > 0))  # both 0: no uid
        return np.where(same, first, -1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pairs": None if self._sorted else self._pairs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._pairs is None:
            self._pairs = _read(self._path)


class Found:
    """A record of which uids of a subset are in shards, with one bit for each."""

    def __init__(self, subset: Subset):
        self._bits = np.zeros(len(subset) // 8 + 1, np.uint8)
        self._of, self._samples = len(subset), 0

    def add(self, places: npt.NDArray[np.int64]) -> None:
        """Record the uids of a shard, given by `Subset.places`."""
        met = places[places >= 0]
        np.bitwise_or.at(self._bits, met >> 3, (1 << (met & 7)).astype(np.uint8))  # 8 uids per byte
        self._samples += len(met)

    def __str__(self) -> str:
        """Return a line with the counts."""
        met = int.from_bytes(self._bits.tobytes()).bit_count()
        missing = self._of - met
        return f"{met:,} of {self._of:,} uids are in {self._samples:,} samples of the shards; {missing:,} are missing"


def open_subset(path: str) -> Subset:
    """Open the subset in a file. Raises `BadSource` if it cannot be read."""
    try:
        return _opened(Path(path).absolute(), stamp_of(Path(path)))
    except (OSError, ValueError) as error:
        raise BadSource(
            f"data.subset {path} cannot be read ({error}); give a local file: .npy of pairs of unsigned 64-bit "
            "numbers, or text with a uid of 32 hex digits on each line"
        ) from error


@lru_cache(maxsize=1)
def _opened(path: Path, stamp: str) -> Subset:
    """Open a subset once, since every check of quality opens the loader's data again."""
    return Subset(path)


def _read(path: Path) -> npt.NDArray[Any]:
    """Return the uids (n,) of `_PAIR`, in the order of the file. Raises ValueError or OSError."""
    if path.suffix == ".npy":
        pairs = np.load(path, mmap_mode="r")
        if pairs.ndim != 1 or [kind for kind, *_ in (pairs.dtype.fields or {}).values()] != [_PAIR[0]] * 2:
            raise ValueError(f"it holds {pairs.dtype} of shape {pairs.shape}")
        pairs = pairs.view(_PAIR)
    else:
        words = path.read_text(encoding="ascii").split()
        wrong = next((word for word in words if len(word) != 32), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is not a uid")
        halves = np.frombuffer(bytes.fromhex("".join(words)), ">u8").astype("<u8")
        pairs = halves.view(_PAIR)
    if not len(pairs):
        raise ValueError("it is empty")
    return np.asarray(pairs)


def _rises(pairs: npt.NDArray[Any]) -> bool:
    high, low = pairs["f0"], pairs["f1"]
    return bool(np.all((high[:-1] < high[1:]) | ((high[:-1] == high[1:]) & (low[:-1] < low[1:]))))
