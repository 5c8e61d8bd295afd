"""Exact duplicates among keys: our passes over files, DuckDB, datatrove, and the shuffle of Beam's
embedded runner.

The keys have 16 bytes and lie in Parquet files of 100,000; a tenth of them occur twice. Ours writes
each unit's sorted keys and compares ranges of all keys, as stages `pair_keys` and `pair_duplicates`
do. DuckDB numbers the rows of each key, and datatrove's first two steps hash and merge. Beam groups
the positions of equal keys by `GroupByKey`, which is only a part of the work: the rows to reject
must then be grouped by unit. Each side has one thread, and its peak memory includes its libraries.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.figures.figure import Figure
from benchmarks.figures.turns import (
    PROGRAMS,
    Entrant,
    Process,
    locked,
    peer_python,
    sides_of,
    take_turns,
)

MINUTES = 6
PEERS = "duplicates"
UNIT = 100_000
"""Keys of a unit, the size of a unit of captions."""
RANGE = 64 << 20
OURS = "ours, files"
NOTE = (
    "A user of DuckDB sets threads and memory_limit with SET, and one of datatrove lines_to_buffer;"
    " both can use more threads or tasks, as a run of ours more workers."
)


def write_keys(folder: Path, keys: int) -> Path:
    """Write the units of `keys` keys, of which about a tenth occur twice in the whole."""
    folder.mkdir()
    for unit in range(-(-keys // UNIT)):
        numbers = np.arange(unit * UNIT, min(keys, (unit + 1) * UNIT), dtype=np.uint64)
        low = numbers % np.uint64(keys - keys // 10)
        columns = {
            "unit": pa.array(np.full(len(low), unit, np.uint32)),
            "ordinal": pa.array(np.arange(len(low), dtype=np.uint32)),
            "high": pa.array(low * np.uint64(0x9E3779B97F4A7C15)),
            "low": pa.array(low),
        }
        pq.write_table(pa.table(columns), folder / f"{unit:05d}.parquet")
    return folder


def read_keys(file: Path) -> NDArray[np.uint64]:
    """Return the keys (n, 2) of a unit."""
    table = pq.read_table(file, columns=["high", "low"])
    return np.stack([table["high"].to_numpy(), table["low"].to_numpy()], axis=1)


def by_files() -> Callable[[str], int]:
    from open_diht.pipelines.stages.dedup.exact import duplicates, ranges_of
    from open_diht.pipelines.stages.keys import KEY, PARTS, key_parts, key_records
    from open_diht.pipelines.stages.slices import pack, read_slice

    def find(folder: str) -> int:
        files = sorted(Path(folder).glob("*.parquet"))
        found = 0
        keys = 0
        with tempfile.TemporaryDirectory(dir=Path(folder).parent) as sorted_keys:
            for unit, file in enumerate(files):
                own = read_keys(file)
                keys += len(own)
                records = key_records(own, np.arange(len(own)), own)
                packed = pack(records, key_parts(records), PARTS)
                Path(sorted_keys, str(unit)).write_bytes(packed)

            def slices(first: int, stop: int) -> Iterator[tuple[int, NDArray[np.void]]]:
                for unit in range(len(files)):
                    with open(Path(sorted_keys, str(unit)), "rb") as file:

                        def read(begin: int, end: int, descriptor: int = file.fileno()) -> bytes:
                            return os.pread(descriptor, end - begin, begin)

                        yield unit, read_slice(read, KEY, PARTS, first, stop, file.name)

            ranges = ranges_of(keys, RANGE)
            for part in range(ranges):
                bounds = part * PARTS // ranges, (part + 1) * PARTS // ranges
                for table in duplicates(slices(*bounds)):
                    pq.write_table(table, Path(sorted_keys, "found.parquet"))
                    found += table.num_rows
        return found

    return find


def by_beam() -> Callable[[str], int]:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    def emit(file: tuple[int, Path]) -> Iterator[tuple[bytes, int]]:
        for ordinal, key in enumerate(read_keys(file[1])):
            yield key.tobytes(), file[0] << 32 | ordinal

    def later(positions: tuple[bytes, Sequence[int]]) -> int:
        return len(list(positions[1])) - 1

    def find(folder: str) -> int:
        found = Path(folder).parent / "beam"
        with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
            _ = (
                pipeline
                | beam.Create(list(enumerate(sorted(Path(folder).glob("*.parquet")))))
                | beam.FlatMap(emit)
                | beam.GroupByKey()
                | beam.Map(later)
                | beam.CombineGlobally(sum)
                | beam.Map(str)
                | beam.io.WriteToText(str(found), shard_name_template="")
            )
        return int(found.read_text())

    return find


def entrants(peer: Path | None, work: Path) -> dict[str, Entrant]:
    """Return the sides. `peer` is the interpreter of the peers' environment, or None to leave them
    out."""
    own = partial(Process, __name__)
    theirs = partial(Process, PROGRAMS / "duplicates.py", python=peer or "", temporary=work)
    peers = {
        "DuckDB": Entrant(
            locked(PEERS, "duckdb"),
            {"threads": 1, "memory_limit": "default"},
            partial(theirs, "duckdb"),
        ),
        "DuckDB, 256 MB": Entrant(
            locked(PEERS, "duckdb"),
            {"threads": 1, "memory_limit": "256MB"},
            partial(theirs, "duckdb", memory="256MB"),
        ),
        "datatrove, two steps": Entrant(
            locked(PEERS, "datatrove"),
            {"tasks": 1, "finder_workers": 1, "lines_to_buffer": 10_000},
            partial(theirs, "datatrove"),
        ),
    }
    return {
        OURS: Entrant("", {"threads": 1, "range_bytes": RANGE}, partial(own, "by_files")),
        **(peers if peer else {}),
        "Beam, embedded runner": Entrant(
            version("apache-beam"), {"runner": "FnApiRunner"}, partial(own, "by_beam")
        ),
    }


def compared(
    name: str, keys: int, repeats: int, known: Mapping[str, Entrant], folder: Path
) -> list[Figure]:
    """Return the figures of time and memory of some sides on some keys."""
    answers = take_turns(known, [folder] * repeats)
    wrong = {
        side: given[0].value for side, given in answers.items() if given[0].value != keys // 10
    }
    if wrong:
        raise RuntimeError(f"{keys // 10} of {keys} keys are duplicates, but found were: {wrong}")
    seconds = {side: [one.cpu_s for one in given] for side, given in answers.items()}
    memory = {side: [given[-1].mib] for side, given in answers.items()}
    work = f"{keys:,} keys, a tenth of them twice"
    return [
        Figure(f"duplicates-{name}", "core-seconds", work, sides_of(known, seconds), OURS, NOTE),
        Figure(f"duplicates-{name}-memory", "MiB, peak", work, sides_of(known, memory), OURS),
    ]


def measure(quick: bool, work: Path) -> list[Figure]:
    known = entrants(peer_python(PEERS), work)
    sizes = {"1m": (2_000, 1)} if quick else {"1m": (1_000_000, 3), "10m": (10_000_000, 2)}
    figures = []
    for name, (keys, repeats) in sizes.items():
        folder = write_keys(work / name, keys)
        figures += compared(name, keys, repeats, known, folder)
    return figures
