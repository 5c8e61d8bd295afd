"""subset.npy, DataComp's format: the survivors' uids as pairs of unsigned 64-bit numbers, sorted, each once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.commit import published
from pipelines.layout import Layout
from pipelines.plan import Unit
from pipelines.storage import each, read_table

PARTS = 256  # of the space of uids; one part is sorted at a time, 27 MB of them for the 438 million uids of the paper
_FLUSH_ROWS = 1_000_000
_PAIR = np.dtype("<u8,<u8")


def write_subset(layout: Layout, units: Iterable[Unit]) -> int:
    """Write it from the parts in kept/, in memory that does not grow with them. Returns how many uids it holds."""
    names = [unit.name for unit in units]
    with tempfile.TemporaryDirectory(prefix="diht-subset-") as folder, published(layout.root / "subset.npy") as target:
        parts = _Parts(Path(folder))
        for uids in each(lambda name: _kept(layout, name), names, layout.root):
            parts.add(uids)
        return parts.write(target)


def _kept(layout: Layout, unit: str) -> list[str]:
    try:
        uids: list[str] = read_table(layout.part("kept", unit), columns=["uid"])["uid"].to_pylist()
    except FileNotFoundError:
        return []
    return uids


class _Parts:
    """Uids on disk, by their first byte."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._waiting: list[NDArray[np.uint8]] = []
        self._rows = 0

    def add(self, uids: list[str]) -> None:
        """Take the uids of a unit, 32 hex digits each."""
        self._waiting.append(np.frombuffer(bytes.fromhex("".join(uids)), np.uint8).reshape(-1, 16))
        self._rows += len(uids)
        if self._rows >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        rows = np.concatenate(self._waiting) if self._waiting else np.zeros((0, 16), np.uint8)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        edges = np.searchsorted(rows[:, 0], np.arange(PARTS + 1))
        for part in np.flatnonzero(np.diff(edges)):
            with open(self._folder / f"{part:03d}", "ab") as file:
                file.write(rows[edges[part] : edges[part + 1]].tobytes())
        self._waiting, self._rows = [], 0

    def write(self, target: Path) -> int:
        """Sort part after part into a .npy file."""
        self._flush()
        total = 0
        with tempfile.TemporaryFile(dir=self._folder) as body:
            for path in sorted(self._folder.glob("[0-9]*")):
                # Big endian, so that the order of bytes is that of numbers; then as DataComp has them.
                pairs = np.unique(np.fromfile(path, ">u8").reshape(-1, 2), axis=0).astype("<u8")
                body.write(pairs.tobytes())
                total += len(pairs)
                path.unlink()
            body.seek(0)
            with open(target, "wb") as out:
                header = {"descr": np.lib.format.dtype_to_descr(_PAIR), "fortran_order": False, "shape": (total,)}
                np.lib.format.write_array_header_1_0(out, header)
                while chunk := body.read(2**24):
                    out.write(chunk)
        return total
