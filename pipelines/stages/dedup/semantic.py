"""Find semantic duplicates within a cluster, after SemDeDup (Abbas et al. 2023).

They are images whose embeddings have a cosine above 1 - eps. Rows are taken in order, and a row
that resembles an earlier row is its duplicate. So the order decides which row of a group stays.
`first` goes by unit and index in the unit. `far` (SemDeDup's default) begins with the row of the
lowest cosine to the centroid, `near` with the row of the highest.

`against` says which earlier rows are compared. With `kept`, only rows that stay are compared, so
every duplicate is within eps of a kept row. With `all`, as in SemDeDup, more rows may be removed,
since of a chain of similar rows only the first stays.
"""

import tempfile
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.pipelines.stages.keys import ENTRIES, uid_of
from open_diht.pipelines.stages.vectors import unit_length

Keep = Literal["first", "far", "near"]
Against = Literal["kept", "all"]

TILE, BLOCK = 1_024, 8_192  # constant, because the last bits of a product may depend on its shape
PARTS = 1_024
"""Most groups of clusters, each processed as one unit."""


def member_type(dimension: int) -> np.dtype:
    """Return the record type of a row in a cluster; `cosine` is the row's cosine to the centroid.
    Half precision changes a cosine by about 1e-5 (up to 1e-4 with few dimensions), far less than
    any useful eps.
    """
    return np.dtype(
        [
            ("cluster", "<u4"),
            ("ordinal", "<u4"),
            ("uid_high", "<u8"),
            ("uid_low", "<u8"),
            ("cosine", "<f4"),
            ("vector", "<f2", (dimension,)),
        ]
    )


def groups_of(rows: int, clusters: int, dimension: int, memory: int) -> int:
    """Return the number of groups of clusters, so that an average group takes at most `memory`
    bytes if possible."""
    return max(1, min(-(-rows * member_type(dimension).itemsize // memory), clusters, PARTS))


def member_parts(clusters_of: NDArray[np.int64], clusters: int, groups: int) -> NDArray[np.int64]:
    """Return the group of each row (n,); neighboring clusters share a group."""
    return clusters_of.astype(np.int64) * groups // clusters


def order_of(cosines: NDArray[np.float32], keep: Keep) -> NDArray[np.int64]:
    """Return the order in which to take a cluster's rows, given their cosines (n,) to its centroid;
    stable for ties."""
    if keep == "first":
        return np.arange(len(cosines))
    return np.argsort(cosines if keep == "far" else -cosines, kind="stable")


def near_copies(
    vectors: NDArray[np.floating], order: NDArray[np.int64], eps: float, against: Against
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find which rows of (n, d) embeddings are near copies, taking the rows in `order`. Return two
    arrays (n,): the index of the row that stays in each row's place, or -1 if the row itself stays;
    and the cosine to the row that made it a duplicate, or 0. With `all`, this row need not be the
    one that stays. The embeddings may be a memory map: rows are read in tiles, and memory is a few
    tiles and blocks, and 20 bytes per row."""
    bound = np.float32(1.0 - eps)
    stays_for = np.full(len(vectors), -1, np.int64)
    cosines = np.zeros(len(vectors), np.float32)
    earlier = np.empty(len(order), np.int64)  # the rows to compare with, in order
    known = 0
    for start in range(0, len(order), TILE):
        rows = order[start : start + TILE]
        tile = unit_length(vectors[rows])
        link = np.full(len(rows), -1, np.int64)
        for block in range(0, known, BLOCK):
            open_ = np.flatnonzero(link < 0)
            if not len(open_):  # every row of the tile has its link
                break
            others = earlier[block : min(block + BLOCK, known)]
            cosine = tile[open_] @ unit_length(vectors[others]).T
            hit = cosine > bound
            found = hit.any(axis=1)
            place = hit.argmax(axis=1)[found]
            link[open_[found]] = others[place]
            cosines[rows[open_[found]]] = cosine[found, place]
        _within_tile(tile, rows, link, cosines, bound, against)
        for at in np.flatnonzero(link >= 0):  # in order, so that the linked row is already settled
            ahead = link[at]
            stays_for[rows[at]] = stays_for[ahead] if stays_for[ahead] >= 0 else ahead
        more = rows if against == "all" else rows[link < 0]
        earlier[known : known + len(more)] = more
        known += len(more)
    return stays_for, cosines


def _within_tile(
    tile: NDArray[np.float32],
    rows: NDArray[np.int64],
    link: NDArray[np.int64],
    cosines: NDArray[np.float32],
    bound: np.float32,
    against: Against,
) -> None:
    """Link the rows of a tile that have no link yet to earlier rows of the same tile."""
    sources = np.arange(len(rows)) if against == "all" else np.flatnonzero(link < 0)
    cosine = tile[sources] @ tile.T
    hit = (cosine > bound) & (np.arange(len(rows)) > sources[:, None])
    for place in np.flatnonzero(hit.any(axis=1)):
        source = sources[place]
        if against == "kept" and link[source] >= 0:
            continue
        new = np.flatnonzero(hit[place] & (link < 0))
        link[new] = rows[source]
        cosines[rows[new]] = cosine[place, new]


def duplicates(
    slices: Iterable[tuple[int, NDArray[np.void]]],
    dimension: int,
    eps: float,
    keep: Keep,
    against: Against,
) -> pa.Table:
    """Return the duplicates in a group of clusters as a table of `ENTRIES`, sorted by unit and
    ordinal. `slices` are (number of the unit, its records of type `member_type(dimension)`,
    ordinals ascending within a cluster), units ascending. Vectors are written to a temporary
    file and read in tiles, so that a cluster may exceed memory. About 100 bytes per row stay in
    memory."""
    record = member_type(dimension)
    light: list[NDArray[np.void]] = []
    units: list[NDArray[np.int64]] = []
    columns = ["cluster", "ordinal", "uid_high", "uid_low", "cosine"]
    with tempfile.TemporaryFile(prefix="diht-clusters-") as spool:
        for unit, records in slices:
            spool.write(np.ascontiguousarray(records["vector"]).tobytes())
            light.append(_columns(records, columns))
            units.append(np.full(len(records), unit, np.int64))
        rows = np.concatenate(light) if light else _columns(np.empty(0, record), columns)
        if not len(rows):
            return ENTRIES.empty_table()
        spool.flush()
        unit_of = np.concatenate(units)
        vectors = np.memmap(spool, "<f2", "r", shape=(len(rows), dimension))
        first = np.full(len(rows), -1, np.int64)
        cosines = np.zeros(len(rows), np.float32)
        by_cluster = np.argsort(rows["cluster"], kind="stable")
        edges = np.flatnonzero(np.diff(rows["cluster"][by_cluster])) + 1
        for members in np.split(by_cluster, edges):
            if len(members) < 2:
                continue
            view = _Gathered(vectors, members)
            stays, cosine = near_copies(view, order_of(rows["cosine"][members], keep), eps, against)  # type: ignore[arg-type]
            first[members] = np.where(stays >= 0, members[stays], -1)
            cosines[members] = cosine
        del vectors
    again = np.flatnonzero(first >= 0)
    again = again[np.lexsort((rows["ordinal"][again], unit_of[again]))]
    cited = first[again]
    halves = zip(rows["uid_high"][cited].tolist(), rows["uid_low"][cited].tolist(), strict=True)
    where = [unit_of[again], rows["ordinal"][again], unit_of[cited], rows["ordinal"][cited]]
    return pa.table([*where, [uid_of(*pair) for pair in halves], cosines[again]], schema=ENTRIES)


def _columns(records: NDArray[np.void], names: list[str]) -> NDArray[np.void]:
    """Return some columns as a copy, so that the other columns can be freed."""
    slim = np.empty(len(records), [(name, records.dtype[name]) for name in names])
    for name in names:
        slim[name] = records[name]
    return slim


class _Gathered:
    """Selected rows of a matrix, read on demand."""

    def __init__(self, matrix: NDArray[np.floating], rows: NDArray[np.int64]):
        self._matrix = matrix
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.floating]:
        return self._matrix[self._rows[places]]
