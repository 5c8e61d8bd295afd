"""Duplicates: exact ones against a plain dict, semantic ones against brute force.

    python -m benchmarks.dedup [--keys N] [--semantic N] [--repeats K]

Exact: N keys, about a tenth of them repeated, in units of 100,000. Our side writes a key file per unit,
then finds the duplicates range by range (as many as keep each to about 64 MiB, at most 256); the plain side
puts every key of the same units into one Python dict. Each side runs in its own process, in turn; memory is
the peak resident set above that of the bare process. Semantic: N embeddings of 256 numbers around random centers, a
fifth of them near copies. Our side clusters them and compares within clusters; brute force has
one cluster. Recall is the fraction of brute force's duplicates that we find.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.measuring import apart, memory_mib, parser_of, print_table
from open_diht.pipelines.stages.dedup.clusters import assign, train, unit_length
from open_diht.pipelines.stages.dedup.exact import duplicates, ranges_of
from open_diht.pipelines.stages.dedup.keys import KEY, PARTS, key_parts, key_records
from open_diht.pipelines.stages.dedup.semantic import near_copies
from open_diht.pipelines.stages.dedup.slices import pack, read_slice

UNIT = 100_000
RANGE_BYTES = 64 * 2**20
CLUSTERS = (1, 10, 50, 250)


def units(keys: int) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield the keys (n, 2) and ordinals of one unit after another; the same on every call."""
    dice = np.random.default_rng(1)
    for first in range(0, keys, UNIT):
        numbers = np.arange(first, min(first + UNIT, keys), dtype=np.uint64)
        again = dice.random(len(numbers)) < 0.1
        # Take numbers of earlier units, whose keys nearly all occurred; in the first unit, its first key.
        numbers[again] = dice.integers(0, max(first, 1), again.sum(), dtype=np.uint64)
        pair = np.stack([numbers * np.uint64(0x9E3779B97F4A7C15), numbers], axis=1)
        yield pair, np.arange(len(numbers))


def ours(keys: int, folder: Path) -> tuple[int, float]:
    """Write the keys of each unit, then find the duplicates of each range; return their number and
    the seconds.

    Args:
        keys: number of keys.
        folder: where to write.
    """
    seconds = 0.0
    for unit, (numbers, ordinals) in enumerate(units(keys)):
        began = time.perf_counter()
        records = key_records(numbers, ordinals, numbers)
        (folder / str(unit)).write_bytes(pack(records, key_parts(records), PARTS))
        seconds += time.perf_counter() - began
    began, ranges = time.perf_counter(), ranges_of(keys, RANGE_BYTES)

    def part(unit: int, cut: int) -> NDArray[np.void]:
        with open(folder / str(unit), "rb") as file:

            def read(start: int, stop: int) -> bytes:
                file.seek(start)
                return file.read(stop - start)

            return read_slice(read, KEY, PARTS, cut * PARTS // ranges, (cut + 1) * PARTS // ranges, str(unit))

    count = -(-keys // UNIT)
    tables = (table for cut in range(ranges) for table in duplicates((n, part(n, cut)) for n in range(count)))
    return sum(table.num_rows for table in tables), seconds + time.perf_counter() - began


def a_dict(keys: int, folder: Path) -> tuple[int, float]:
    """Put every key into one dict; return the number of duplicates and the seconds.

    Args:
        keys: number of keys.
        folder: not used.
    """
    first: dict[bytes, tuple[int, int]] = {}
    seconds, found = 0.0, 0
    for unit, (numbers, _) in enumerate(units(keys)):
        digests = [row.tobytes() for row in numbers]
        began = time.perf_counter()
        for ordinal, key in enumerate(digests):
            if key in first:
                found += 1
            else:
                first[key] = (unit, ordinal)
        seconds += time.perf_counter() - began
    return found, seconds


SIDES = {"ours": ours, "a dict": a_dict}


def measure(side: str, keys: int) -> tuple[int, float, float]:
    """Return the number of duplicates, the seconds and the MiB of one side in this process.

    Args:
        side: a name in `SIDES`.
        keys: number of keys.
    """
    pa.set_cpu_count(1)
    for _ in units(UNIT):  # the memory for making keys is not counted
        pass
    bare = memory_mib()
    with tempfile.TemporaryDirectory() as folder:
        found, seconds = SIDES[side](keys, Path(folder))
    return found, seconds, memory_mib() - bare


def exact(keys: int, repeats: int) -> None:
    """Print keys per second and memory of both sides.

    Args:
        keys: number of keys.
        repeats: runs of each side.
    """
    runs: dict[str, list[tuple[int, float, float]]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side, done in runs.items():
            done.append(json.loads(apart("-m", "benchmarks.dedup", "--side", side, "--keys", keys)))
    found = {run[0] for done in runs.values() for run in done}
    if len(found) > 1:
        raise SystemExit(f"the sides disagree: {found}")
    print(f"exact, {keys:,} keys, {found.pop():,} duplicates on both sides\n")
    print_table(
        ["side", "keys per second", "memory, MiB"],
        (
            [side, f"{keys / statistics.median(run[1] for run in done):,.0f}", f"{max(run[2] for run in done):,.0f}"]
            for side, done in runs.items()
        ),
    )


def semantic(rows: int, repeats: int) -> None:
    """Print seconds and recall of several numbers of clusters against brute force.

    Args:
        rows: number of embeddings.
        repeats: runs of each number of clusters.
    """
    dice = np.random.default_rng(2)
    centres = dice.normal(size=(max(2, rows // 50), 256))
    originals = centres[dice.integers(0, len(centres), rows * 4 // 5)] + dice.normal(size=(rows * 4 // 5, 256))
    copies = originals[dice.integers(0, len(originals), rows - len(originals))]
    vectors = unit_length(np.concatenate([originals, copies + 0.1 * dice.normal(size=copies.shape)]))
    stored = vectors[dice.permutation(rows)].astype(np.float16)
    print(f"\nsemantic, {rows:,} embeddings, eps 0.03; the times include training and assignment\n")
    found: dict[int, NDArray[np.bool_]] = {}

    def cells(clusters: int) -> list[str]:
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            found[clusters] = _found(stored, clusters)
            seconds.append(time.perf_counter() - began)
        recall = (found[clusters] & found[1]).sum() / found[1].sum()
        name = "brute force" if clusters == 1 else str(clusters)
        return [name, f"{statistics.median(seconds):.2f}", f"{found[clusters].sum():,}", f"{recall:.4f}"]

    print_table(["clusters", "seconds", "found", "recall"], map(cells, CLUSTERS))


def _found(vectors: NDArray[np.float16], clusters: int) -> NDArray[np.bool_]:
    full = unit_length(vectors)
    indices, _ = assign(full, train(full[:: max(1, len(full) // (64 * clusters))], clusters, seed=0))
    found = np.zeros(len(vectors), bool)
    for cluster in range(clusters):
        members = np.flatnonzero(indices == cluster)
        if len(members) > 1:
            found[members] = near_copies(vectors[members], np.arange(len(members)), 0.03, "kept")[0] >= 0
    return found


def main() -> None:
    """Run both comparisons."""
    parser = parser_of("benchmarks.dedup", __doc__)
    parser.add_argument("--keys", type=int, default=2_000_000)
    parser.add_argument("--semantic", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.keys)))
    else:
        exact(options.keys, options.repeats)
        semantic(options.semantic, options.repeats)


if __name__ == "__main__":
    main()
