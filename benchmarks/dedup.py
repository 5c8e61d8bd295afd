"""Duplicates: exact ones against a plain set, semantic ones against brute force.

    python -m benchmarks.dedup [--keys N] [--semantic N] [--repeats K]

Exact: N keys, a tenth of them repeated, in units of 100,000. Our side writes a key file per unit, then finds the
duplicates range by range, 64 MiB a range; the plain side puts every key of the same units into one Python dict. Each
side runs in a process of its own, in turn; memory is the peak resident set above that of the bare process.
Semantic: N embeddings of 256 numbers around random centres, a fifth of them near copies. Our side clusters them and
compares within clusters; brute force compares all pairs. Recall is the proportion of brute force's duplicates that
we find.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from open_diht.pipelines.stages.dedup.clusters import assign, train, unit_length
from open_diht.pipelines.stages.dedup.semantic import near_copies

UNIT = 100_000
EXACT = """
import sys, time
from pathlib import Path
import numpy as np
from benchmarks import dedup
import pyarrow as pa
from open_diht.pipelines.stages.dedup.exact import duplicates, ranges_of
from open_diht.pipelines.stages.dedup.keys import KEY, PARTS, key_parts, key_records, halves_of_digests
from open_diht.pipelines.stages.dedup.slices import pack, read_slice
pa.set_cpu_count(1)
side, keys, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) // 1024
for _ in dedup.units(dedup.UNIT):  # what making the keys takes is no part of either side
    pass
bare, seconds, found = peak(), 0.0, 0
if side == "ours":
    for unit, (numbers, ordinals) in enumerate(dedup.units(keys)):
        began = time.perf_counter()
        records = key_records(numbers, ordinals, numbers)
        (folder / str(unit)).write_bytes(pack(records, key_parts(records), PARTS))
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    ranges = ranges_of(keys, 64 * 2**20)
    def part(unit, cut):
        with open(folder / str(unit), "rb") as file:
            def read(start, stop):
                file.seek(start)
                return file.read(stop - start)
            return read_slice(read, KEY, PARTS, cut * PARTS // ranges, (cut + 1) * PARTS // ranges, str(unit))
    count = -(-keys // dedup.UNIT)
    for cut in range(ranges):
        found += sum(table.num_rows for table in duplicates((unit, part(unit, cut)) for unit in range(count)))
    seconds += time.perf_counter() - began
else:
    first = {}
    for unit, (numbers, ordinals) in enumerate(dedup.units(keys)):
        digests = [row.tobytes() for row in numbers]
        began = time.perf_counter()
        for ordinal, key in enumerate(digests):
            if key in first:
                found += 1
            else:
                first[key] = (unit, ordinal)
        seconds += time.perf_counter() - began
print(found, seconds, peak() - bare)
"""


def units(keys: int) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Keys (n, 2) and ordinals of one unit after another; the same on every call."""
    dice = np.random.default_rng(1)
    for first in range(0, keys, UNIT):
        numbers = np.arange(first, min(first + UNIT, keys), dtype=np.uint64)
        again = dice.random(len(numbers)) < 0.1
        numbers[again] = dice.integers(0, max(first, 1), again.sum(), dtype=np.uint64)
        pair = np.stack([numbers * np.uint64(0x9E3779B97F4A7C15), numbers], axis=1)
        yield pair, np.arange(len(numbers))


def exact(keys: int, repeats: int) -> None:
    """Print keys per second and memory of both sides."""
    sides: dict[str, list[tuple[int, float, int]]] = {"ours": [], "a set": []}
    for _ in range(repeats):
        for side, runs in sides.items():
            with tempfile.TemporaryDirectory() as folder:
                said = subprocess.run(
                    [sys.executable, "-c", EXACT, side, str(keys), folder], check=True, capture_output=True, text=True
                ).stdout.split()
                size = sum(path.stat().st_size for path in Path(folder).iterdir())
            runs.append((int(said[0]), float(said[1]), int(said[2])))
            if side == "ours":
                disk = size
    found = {run[0] for runs in sides.values() for run in runs}
    print(f"exact, {keys:,} keys: {found.pop():,} duplicates on both sides, {disk / keys:.0f} bytes a key on disk")
    if found:
        raise SystemExit(f"the sides disagree: {found}")
    for side, runs in sides.items():
        seconds = statistics.median(run[1] for run in runs)
        print(f"  {side:<6} {keys / seconds:>12,.0f} keys/s {max(run[2] for run in runs):>8,} MiB")


def semantic(rows: int, repeats: int) -> None:
    """Print seconds and recall of clusters of several sizes against brute force."""
    dice = np.random.default_rng(2)
    centres = dice.normal(size=(max(2, rows // 50), 256))
    originals = centres[dice.integers(0, len(centres), rows * 4 // 5)] + dice.normal(size=(rows * 4 // 5, 256))
    copies = originals[dice.integers(0, len(originals), rows - len(originals))]
    vectors = unit_length(np.concatenate([originals, copies + 0.1 * dice.normal(size=copies.shape)]))
    stored = vectors[dice.permutation(rows)].astype(np.float16)
    print(f"semantic, {rows:,} embeddings, eps 0.03; the times of clusters include training and assignment")
    times: dict[int, list[float]] = {}
    found: dict[int, NDArray[np.bool_]] = {}
    for _ in range(repeats):
        for clusters in (1, 10, 50, 250):
            began = time.perf_counter()
            found[clusters] = _found(stored, clusters)
            times.setdefault(clusters, []).append(time.perf_counter() - began)
    brute = found[1]
    for clusters, seconds in times.items():
        recall = (found[clusters] & brute).sum() / brute.sum()
        name = "brute force" if clusters == 1 else f"{clusters} clusters"
        print(
            f"  {name:<12} {statistics.median(seconds):>8.2f} s  {found[clusters].sum():>7,} found  recall {recall:.4f}"
        )


def _found(vectors: NDArray[np.float16], clusters: int) -> NDArray[np.bool_]:
    full = unit_length(vectors)
    places, _ = assign(full, train(full[:: max(1, len(full) // (64 * clusters))], clusters, seed=0))
    found = np.zeros(len(vectors), bool)
    for cluster in range(clusters):
        members = np.flatnonzero(places == cluster)
        if len(members) > 1:
            found[members] = near_copies(vectors[members], np.arange(len(members)), 0.03, "kept")[0] >= 0
    return found


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=2_000_000)
    parser.add_argument("--semantic", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    exact(options.keys, options.repeats)
    semantic(options.semantic, options.repeats)


if __name__ == "__main__":
    main()
