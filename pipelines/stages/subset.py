"""Write subset.npy in DataComp's format: the survivors' uids as pairs of uint64, sorted, each once.

Its readers take every row with one of the uids. So a uid that different rows share is left out: it
could add rows that were not kept.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from open_diht.common.files import naming
from open_diht.common.shard_index import UID_PAIR
from open_diht.pipelines.manifests.plan import Unit
from open_diht.pipelines.stages.annotator import DuplicateFiles
from open_diht.pipelines.stages.dedup.findings import (
    UID,
    duplicates_stage,
    file_name,
)
from open_diht.pipelines.store.commit import published
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import each, read_table

# Ranges of uids, sorted one at a time; 27 MB each for the 438 million uids of the paper
PARTS = 256
# 16 MB of uids; fewer rows would make more and smaller writes to the files of the parts.
_FLUSH_ROWS = 1_000_000


def write_subset(
    layout: Layout, units: Iterable[Unit], duplicate_files: tuple[DuplicateFiles, ...]
) -> int:
    """Write subset.npy, see `subset_of`."""
    with published(layout.root / "subset.npy") as target:
        return subset_of(layout, units, duplicate_files, target)


def subset_of(
    layout: Layout, units: Iterable[Unit], duplicate_files: Iterable[DuplicateFiles], target: Path
) -> int:
    """Write the uids of the parts in kept/ to a local file. Leave out the shared uids, which the
    files of kind `UID` list. Return the number of uids."""
    names = [unit.name for unit in units]
    files = [
        file_name(number)
        for one in duplicate_files
        if one.kind == UID
        for number in range(one.count)
    ]
    return sort_uids(
        each(lambda name: _kept(layout, name), names, layout.root),
        each(lambda name: _shared(layout, name), files, layout.root),
        target,
    )


def sort_uids(of_kept: Iterable[list[str]], of_shared: Iterable[list[str]], target: Path) -> int:
    """Write the distinct uids of kept rows except the shared ones, sorted. They may exceed
    memory."""
    with tempfile.TemporaryDirectory(prefix="diht-subset-") as folder, naming(Path(folder)):
        kept = _Parts(Path(folder), "kept")
        shared = _Parts(Path(folder), "shared")
        for uids in of_kept:
            kept.add(uids)
        for uids in of_shared:
            shared.add(uids)
        with tempfile.TemporaryFile(dir=folder) as body:
            total = 0
            for part in range(PARTS):
                pairs = _unique(kept.take(part), shared.take(part))
                body.write(pairs.astype("<u8").tobytes())
                total += len(pairs)
            body.seek(0)
            with naming(target), open(target, "wb") as out:
                header = {
                    "descr": np.lib.format.dtype_to_descr(UID_PAIR),
                    "fortran_order": False,
                    "shape": (total,),
                }
                np.lib.format.write_array_header_1_0(out, header)
                while chunk := body.read(2**24):
                    out.write(chunk)
        return total


def _kept(layout: Layout, unit: str) -> list[str]:
    try:
        return read_table(layout.part("kept", unit), columns=["uid"])["uid"].to_pylist()
    except FileNotFoundError:
        return []


def _shared(layout: Layout, name: str) -> list[str]:
    return read_table(layout.data(duplicates_stage(UID), name), columns=["duplicate_of"])[
        0
    ].to_pylist()


def _unique(uids: NDArray[np.uint64], without: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the distinct uids that are not in `without`, sorted. All arrays have the shape (n,
    2)."""
    distinct = np.unique(uids, axis=0)
    if not len(without):
        return distinct
    # `without` is there twice, so only uids outside of it can occur once.
    found, counts = np.unique(
        np.concatenate([distinct, without, without]), axis=0, return_counts=True
    )
    return found[counts == 1]


class _Parts:
    """Uids on disk, grouped by their first byte."""

    def __init__(self, folder: Path, name: str):
        self._folder = folder
        self._name = name
        self._waiting: list[NDArray[np.uint8]] = []
        self._rows = 0

    def add(self, uids: list[str]) -> None:
        self._waiting.append(np.frombuffer(bytes.fromhex("".join(uids)), np.uint8).reshape(-1, 16))
        self._rows += len(uids)
        if self._rows >= _FLUSH_ROWS:
            self._flush()

    def take(self, part: int) -> NDArray[np.uint64]:
        """Return the uids of a part, shape (n, 2), and delete them."""
        self._flush()
        path = self._path(part)
        if not path.exists():
            return np.empty((0, 2), ">u8")
        # Big endian, so that the order of bytes equals that of numbers.
        pairs = np.fromfile(path, ">u8").reshape(-1, 2)
        path.unlink()
        return pairs

    def _path(self, part: int) -> Path:
        return self._folder / f"{self._name}-{part:03d}"

    def _flush(self) -> None:
        uids = np.concatenate(self._waiting) if self._waiting else np.zeros((0, 16), np.uint8)
        uids = uids[np.argsort(uids[:, 0], kind="stable")]
        edges = np.searchsorted(uids[:, 0], np.arange(PARTS + 1))
        for part in np.flatnonzero(np.diff(edges)):
            with open(self._path(part), "ab") as file:
                file.write(uids[edges[part] : edges[part + 1]].tobytes())
        self._waiting = []
        self._rows = 0
