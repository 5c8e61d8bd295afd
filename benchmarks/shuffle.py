"""Exact duplicates among keys: the passes over files of a run, next to the shuffle of Beam's
runners.

    python -m benchmarks.shuffle [--keys 1000000] [--sides files,embedded,prism,dask]

A tenth of the keys occur twice. `files` writes each unit's sorted keys and compares ranges of all
keys, as stages `pair_keys` and `pair_duplicates` do. The others group the positions of equal keys
by `GroupByKey` on 16 bytes, which is the least that a shuffle must do: `CombinePerKey` would name
the first row, but the run needs the rows to reject. Each side runs in a process of its own; memory
is the peak of all its processes, sampled, and includes the libraries.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
import psutil
from apache_beam.options.pipeline_options import PipelineOptions
from numpy.typing import NDArray

from benchmarks.measuring import parser_of, print_table, processor
from open_diht.common.run_command import ONE_THREAD
from open_diht.pipelines.stages.dedup.exact import duplicates, ranges_of
from open_diht.pipelines.stages.keys import KEY, PARTS, key_parts, key_records
from open_diht.pipelines.stages.slices import pack, read_slice

UNIT = 100_000
"""Keys of a unit, the size of a unit of captions."""
SIDES = ("files", "embedded", "prism", "dask")


def keys_of(unit: int, keys: int) -> NDArray[np.uint64]:
    """Return the keys of a unit (UNIT, 2), of which about a tenth occur twice in the whole."""
    numbers = np.arange(unit * UNIT, min(keys, (unit + 1) * UNIT), dtype=np.uint64)
    numbers = numbers % np.uint64(keys - keys // 10)
    return np.stack([numbers * np.uint64(0x9E3779B97F4A7C15), numbers], axis=1)


def by_files(keys: int) -> int:
    units = range(-(-keys // UNIT))
    with tempfile.TemporaryDirectory() as folder:
        for unit in units:
            own = keys_of(unit, keys)
            records = key_records(own, np.arange(len(own)), own)
            Path(folder, str(unit)).write_bytes(pack(records, key_parts(records), PARTS))
        ranges = ranges_of(keys, 64 << 20)
        found = 0
        for part in range(ranges):
            first = part * PARTS // ranges
            stop = (part + 1) * PARTS // ranges

            def slices(
                first: int = first, stop: int = stop
            ) -> Iterator[tuple[int, NDArray[np.void]]]:
                for unit in units:
                    with open(Path(folder, str(unit)), "rb") as file:

                        def read(begin: int, end: int, descriptor: int = file.fileno()) -> bytes:
                            return os.pread(descriptor, end - begin, begin)

                        yield unit, read_slice(read, KEY, PARTS, first, stop, file.name)

            found += sum(table.num_rows for table in duplicates(slices()))
    return found


def emit(unit: int, keys: int) -> Iterator[tuple[bytes, int]]:
    own = keys_of(unit, keys)
    for ordinal, key in enumerate(own):
        yield key.tobytes(), unit << 32 | ordinal


def later(positions: tuple[bytes, Sequence[int]]) -> int:
    return len(list(positions[1])) - 1


def by_shuffle(side: str, keys: int) -> int:
    runners = {
        "embedded": ["--runner=FnApiRunner"],
        "prism": [
            "--runner=PrismRunner",
            "--prism_location=.prism/prism",
            "--environment_type=LOOPBACK",
        ],
        "dask": ["--runner=apache_beam.runners.dask.dask_runner.DaskRunner"],
    }
    options = PipelineOptions(runners[side])
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | beam.Create(range(-(-keys // UNIT)), reshuffle=False)
                | beam.FlatMap(emit, keys)
                | beam.GroupByKey()
                | beam.Map(later)
                | beam.Filter(bool)
                | beam.ParDo(_Count(folder))
            )
        return sum(int(path.read_text()) for path in Path(folder).iterdir())


class _Count(beam.DoFn):
    """Counts the duplicates of each bundle in a file, since Beam's DaskRunner has no metrics."""

    def __init__(self, folder: str):
        self._folder = folder

    def start_bundle(self) -> None:
        self._count = 0

    def process(self, more: int) -> None:
        self._count += more

    def finish_bundle(self) -> None:
        with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False) as file:
            file.write(str(self._count))


def measured(side: str, keys: int) -> tuple[float, float, int]:
    """Run a side in a process of its own. Return its seconds without imports, the peak MiB of its
    processes, and the number of duplicates found."""
    words = [sys.executable, "-m", "benchmarks.shuffle", "--keys", str(keys), "--one", side]
    peak = 0
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
    ) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0
            for one in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += one.memory_info().rss
            peak = max(peak, total)
            time.sleep(0.2)
        assert process.stdout
        seconds, found = process.stdout.read().split()[-2:]
    if process.returncode:
        raise RuntimeError(f"{side} ended with status {process.returncode}")
    return float(seconds), peak / 2**20, int(found)


def main() -> None:
    parser = parser_of("benchmarks.shuffle", __doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--sides", default=",".join(SIDES), help="comma-separated")
    parser.add_argument(
        "--one", choices=SIDES, help="run this side alone, and print its seconds and duplicates"
    )
    options = parser.parse_args()
    if options.one:
        began = time.perf_counter()
        found = (
            by_files(options.keys)
            if options.one == "files"
            else by_shuffle(options.one, options.keys)
        )
        print(time.perf_counter() - began, found)
        return
    print(f"{processor()}; {options.keys:,} keys")
    rows = []
    for side in options.sides.split(","):
        seconds, memory, found = measured(side, options.keys)
        rows.append([side, f"{seconds:.1f}", f"{memory:.0f}", f"{found:,}"])
    print_table(["side", "seconds", "MiB", "duplicates"], rows)


if __name__ == "__main__":
    main()
