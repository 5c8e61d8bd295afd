"""Choose samples by uid from unchanged shards: `data.subset` and `data.selection`.

A subset is DataComp's `subset.npy` (uids as pairs of unsigned 64-bit numbers), a text file with one
uid of 32 hex digits per line, or a Parquet file with columns `uid` and `repeats`. A sorted `.npy`
file is searched on the disk, so it may be larger than memory; a subset's file must have no repeats.
A uid that occurs r times in a selection of `make select` is read r times in a pass, or once if it
is held out.
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from open_diht.common.shard_index import UID_PAIR, ShardIndex, stamp_of, uid_pairs
from open_diht.common.spelling import spelled
from open_diht.trainer.data.errors import BadSource

_CHUNK = 2**20  # uids read at a time, 16 MiB of a file that may be larger than memory
SELECTION = "selection.npy"
"""The file of uids in a folder of `make select`."""


class Subset:
    """A set of uids. With `repeats`, as in a selection, a uid is read as often as it occurs.
    Without `repeats` it is read once. A pickled copy of a sorted set opens the file again."""

    def __init__(self, path: Path, repeats: bool = False):
        self._path = path
        self._repeats = repeats
        sorted_ = True
        strictly = True
        pairs = _read(path)
        digest = hashlib.sha256()
        for first in range(0, len(pairs), _CHUNK):
            part = pairs[first : first + _CHUNK + 1]  # and the next one, to compare across chunks
            below, same = _compared(part)
            sorted_, strictly = sorted_ and bool(np.all(below | same)), strictly and not same.any()
            digest.update(part[:_CHUNK].astype(UID_PAIR).tobytes())
        self._sorted = sorted_ and (repeats or strictly)
        self._pairs: Any = (
            pairs if self._sorted else np.sort(pairs) if repeats else np.unique(pairs)
        )
        self.digest = digest.hexdigest()
        """SHA-256 of the uids in the order of the file."""
        self.uids, self.most = self._counted()
        """Number of different uids, and how often the most frequent one is read."""

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def contents(self) -> str:
        """The line that identifies this set in `Loader.contents`."""
        return f"{'selection' if self._repeats else 'subset'} {self.digest}"

    def _counted(self) -> tuple[int, int]:
        """Return the number of runs of equal uids, and the length of the longest."""
        if not self._repeats:
            return len(self), 1
        uids = most = 0
        begin = 0  # of the current run
        for first in range(0, len(self), _CHUNK):
            below, _ = _compared(self._pairs[first : first + _CHUNK + 1])
            starts = np.concatenate([[begin], first + 1 + np.flatnonzero(below)])
            uids += len(starts) - 1
            most = max(most, int(np.diff(starts).max(initial=0)))
            begin = int(starts[-1])
        return uids + 1, max(most, len(self) - begin)

    def places(self, index: ShardIndex) -> npt.NDArray[np.int64]:
        """Return the position in the set of each sample's uid, (n,). It is -1 for a sample without
        a uid in the set."""
        first = self._bound(index)
        pairs = self._pairs
        high = index.rows["uid_high"]
        low = index.rows["uid_low"]
        there = pairs[np.minimum(first, len(pairs) - 1)]
        # Both 0: no uid.
        same = (there["f0"] == high) & (there["f1"] == low) & ((high > 0) | (low > 0))
        return np.where(same, first, -1)

    def repeats(self, index: ShardIndex) -> npt.NDArray[np.int64]:
        """Return how often a pass reads each sample, (n,); 0 for samples outside the set."""
        places = self.places(index)
        return np.where(
            places < 0, 0, self._bound(index, after=True) - places if self._repeats else 1
        )

    def _bound(self, index: ShardIndex, after: bool = False) -> npt.NDArray[np.int64]:
        """Return for each sample how many uids are less than its own, (n,). With `after`, also
        count the equal ones."""
        high = index.rows["uid_high"]
        low = index.rows["uid_low"]
        pairs = self._pairs
        first = np.zeros(len(high), np.int64)
        last = np.full(len(high), len(pairs), np.int64)
        for _ in range(len(pairs).bit_length()):  # one binary search for all samples
            middle = (first + last) // 2
            there = pairs[np.minimum(middle, len(pairs) - 1)]  # past the end, any value will do
            same = there["f0"] == high
            below = (there["f0"] < high) | (
                same & ((there["f1"] <= low) if after else (there["f1"] < low))
            )
            open_ = first < last
            first, last = (
                np.where(open_ & below, middle + 1, first),
                np.where(open_ & ~below, middle, last),
            )
        return first

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pairs": None if self._sorted else self._pairs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._pairs is None:
            self._pairs = _read(self._path)


class Found:
    """A record of the uids of a subset that are in shards, with one bit for each."""

    def __init__(self, subset: Subset):
        self._bits = np.zeros(len(subset) // 8 + 1, np.uint8)
        self._of = subset.uids
        self._samples = 0

    def add(self, places: npt.NDArray[np.int64]) -> None:
        """Record the uids of a shard, given by `Subset.places`."""
        met = places[places >= 0]
        np.bitwise_or.at(self._bits, met >> 3, (1 << (met & 7)).astype(np.uint8))  # 8 uids per byte
        self._samples += len(met)

    def __str__(self) -> str:
        """Return a line with the counts."""
        met = int.from_bytes(self._bits.tobytes()).bit_count()
        missing = self._of - met
        return (
            f"{met:,} of {self._of:,} uids are in {self._samples:,} samples of the shards;"
            f" {missing:,} are missing"
        )


def open_subset(path: str, repeats: bool = False) -> Subset:
    """Open the subset or selection in a file, or in a folder of `make select`. Raises
    `BadSource`."""
    file = Path(path).absolute()
    if repeats and file.is_dir():
        file /= SELECTION
    try:
        return _opened(file, stamp_of(file), repeats)
    except (OSError, ValueError, EOFError) as error:
        raise BadSource(
            f"data.{'selection' if repeats else 'subset'} {path} cannot be read ({error}); give a"
            " local file: .npy of pairs of unsigned 64-bit numbers, .parquet of"
            f" `{spelled('select')}`, or text with a uid of 32 hex digits on each line"
        ) from error


@lru_cache(maxsize=1)
def _opened(path: Path, stamp: str, repeats: bool) -> Subset:
    """Open a subset once, since every check of quality opens the loader's data again."""
    return Subset(path, repeats)


def _read(path: Path) -> npt.NDArray[Any]:
    """Return the uids (n,) of `UID_PAIR`, in the order of the file. Raises ValueError, OSError or
    EOFError."""
    if path.suffix == ".npy":
        pairs = np.load(path, mmap_mode="r")
        if (
            pairs.ndim != 1
            or [kind for kind, *_ in (pairs.dtype.fields or {}).values()] != [UID_PAIR[0]] * 2
        ):
            raise ValueError(f"it holds {pairs.dtype} of shape {pairs.shape}")
        pairs = pairs.view(UID_PAIR)
    else:
        times: Any = 1
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq  # for this file alone

            file = pq.ParquetFile(path)
            if missing := {"uid", "repeats"} - {*file.schema_arrow.names}:
                raise ValueError(f"it has no column {min(missing)}")
            table = file.read(["uid", "repeats"])
            words = table["uid"].to_pylist()
            times = table["repeats"].drop_null().to_numpy()
            if times.dtype.kind not in "iu":
                raise ValueError(
                    f"its column repeats holds {table['repeats'].type}, not whole numbers"
                )
            times = times.astype(np.int64)
        else:
            words = path.read_text(encoding="ascii").split()
        if wrong := [word for word in words if not isinstance(word, str) or len(word) != 32]:
            raise ValueError(f"{wrong[0]!r} is not a uid")
        pairs = np.repeat(uid_pairs(words), times)
    if not len(pairs):
        raise ValueError("it is empty")
    return np.asarray(pairs)


def _compared(pairs: npt.NDArray[Any]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return two masks (n - 1,): where a uid is less than the next, and where it equals the
    next."""
    high = pairs["f0"]
    low = pairs["f1"]
    alike = high[:-1] == high[1:]
    return (high[:-1] < high[1:]) | (alike & (low[:-1] < low[1:])), alike & (low[:-1] == low[1:])
