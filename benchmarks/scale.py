"""Beam against plain processes on the same units: workers, shards, Prism, Dask; and a worker's
memory against its rows.

    python -m benchmarks.scale [--captions FOLDER] [--rows N] [--repeats K]
    python -m benchmarks.scale --memory 100000 1000000

A plain process calls the caption stage on one unit after another: read, annotate, write, commit.
Beam does the same in four ways: through FnApiRunner; in two shards, as two invocations that each do
every second unit; through Prism in one worker process (if `make prism` has built it); and through
Dask on a scheduler and two workers of this machine. Times are wall times and include the start of
the workers and the loading of the models. Only Dask's workers are started before, as on a cluster,
and have imported this program. The sides run in turn. Memory is the peak resident set of one
process that does all the rows. Captions are LAION's; a number makes each copy a new caption.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import apart, parser_of, print_table, ratios
from benchmarks.weights.label_set import laion_captions, numbered, samples_folder
from deploy.dask.cluster import Cluster
from open_diht.filters.captions.annotate import provenance
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.engine.jobs import run_units, worker_log
from open_diht.pipelines.engine.stage import DoUnit
from open_diht.pipelines.manifests.plan import keep_plan, make_plan
from open_diht.pipelines.runners import Backend, Direct, Workers, make_backend
from open_diht.pipelines.runners.prism import BUILT
from open_diht.pipelines.stages.captions import CaptionStage
from open_diht.pipelines.store.layout import Layout

UNIT_ROWS = 2_000
PLAIN = """
import sys
from pathlib import Path
from benchmarks.measuring import memory_mib
from benchmarks.scale import stage_of
stage = stage_of(Path(sys.argv[1]))
stage.setup()
for unit in sys.argv[2:]:
    stage.do(unit)
print(memory_mib())
"""
SHARD = """
import sys
from pathlib import Path
from benchmarks.scale import run_beam
run_beam(Path(sys.argv[1]), sys.argv[2:], 1)
"""


def stage_of(output: Path) -> CaptionStage:
    return CaptionStage(Layout(output), load_dataset("custom"), str(provenance()))


def write_manifest(path: Path, captions: list[str], rows: int) -> None:
    """Write a Parquet manifest of captions in row groups of `UNIT_ROWS`."""
    texts = [numbered(captions, row) for row in range(rows)]
    urls = [f"https://example.org/{row}.jpg" for row in range(rows)]
    pq.write_table(pa.table({"url": urls, "caption": texts}), path, row_group_size=UNIT_ROWS)


def units_of(manifest: Path, output: Path, unit_rows: int) -> list[str]:
    """Plan the manifest into an output folder, and return the names of the units."""
    plan = make_plan(str(manifest), load_dataset("custom"), 1, unit_rows)
    keep_plan(Layout(output).plan, plan)
    return [unit.name for unit in plan.units]


def in_processes(code: str, output: Path, units: list[str], processes: int) -> list[str]:
    """Run a program on parts of the units in parallel processes, and return the output of each."""
    with ThreadPoolExecutor(processes) as pool:
        return list(
            pool.map(
                lambda part: apart("-c", code, output, *units[part::processes]), range(processes)
            )
        )


def run_beam(output: Path, units: list[str], workers: int, backend: Backend | None = None) -> None:
    """Process the units with Beam: FnApiRunner, Prism with one worker process, or Dask on a running
    cluster."""
    with worker_log(output / "workers.log"):
        run_units(
            "captions",
            units,
            DoUnit(stage_of(output)),
            workers,
            backend=backend or Direct(),
            todo=output,
        )


@contextlib.contextmanager
def dask_cluster() -> Iterator[str]:
    """Start a scheduler with two workers on this machine, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), port, 2)
        print(cluster.up(), flush=True)
        try:
            # The workers import it now.
            make_backend("dask", workers=Workers(scheduler=cluster.address)).check([])
            yield cluster.address
        finally:
            cluster.down()


def compare(captions: list[str], rows: int, repeats: int, scheduler: str) -> None:
    dask = make_backend("dask", workers=Workers(scheduler=scheduler))
    sides: dict[str, Callable[[Path, list[str]], object]] = {
        "1 plain process": lambda output, units: in_processes(PLAIN, output, units, 1),
        "Beam, 1 worker": lambda output, units: run_beam(output, units, 1),
        "2 plain processes": lambda output, units: in_processes(PLAIN, output, units, 2),
        "Beam, 2 workers": lambda output, units: run_beam(output, units, 2),
        "2 shards of Beam, 1 worker each": lambda output, units: in_processes(
            SHARD, output, units, 2
        ),
        "Dask, 2 workers": lambda output, units: run_beam(output, units, 2, dask),
    }
    if BUILT.exists():
        sides["Prism, its 1 worker"] = lambda output, units: run_beam(
            output, units, 1, make_backend("prism")
        )
    else:
        print("Prism is not there (`make prism` builds it): its row is left out\n")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.parquet"
        write_manifest(manifest, captions, rows)
        for repeat in range(repeats):
            for name, work in sides.items():
                output = Path(folder) / f"{name}-{repeat}".replace(" ", "-")
                units = units_of(manifest, output, UNIT_ROWS)
                began = time.perf_counter()
                work(output, units)
                seconds[name].append(time.perf_counter() - began)
    print(
        f"{rows:,} captions in units of {UNIT_ROWS:,}, {repeats} repeats in turn, wall time with"
        " start-up\n"
    )

    def cells(name: str) -> list[str]:
        plain = seconds["2 plain processes" if "2" in name else "1 plain process"]
        low, middle, high = ratios(plain, seconds[name])
        return [
            name,
            f"{rows / statistics.median(seconds[name]):,.0f}",
            f"{middle:.0%}",
            f"{low:.0%}",
            f"{high:.0%}",
        ]

    print_table(
        ["side", "captions per second", "of plain processes", "least", "most"], map(cells, sides)
    )


def memory(captions: list[str], counts: list[int]) -> None:

    def cells(rows: int) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            manifest = Path(folder) / "manifest.parquet"
            output = Path(folder) / "out"
            write_manifest(manifest, captions, rows)
            units = units_of(manifest, output, 50_000)
            began = time.perf_counter()
            (peak,) = in_processes(PLAIN, output, units, 1)
            return [
                f"{rows:,}",
                f"{float(peak):,.0f}",
                f"{rows / (time.perf_counter() - began):,.0f}",
            ]

    print_table(
        ["rows in one process", "peak memory, MiB", "captions per second"], map(cells, counts)
    )


def main() -> None:
    arguments = parser_of("benchmarks.scale", __doc__)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--rows", type=int, default=40_000)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument(
        "--memory", type=int, nargs="+", help="measure memory at these numbers of rows instead"
    )
    options = arguments.parse_args()
    captions = laion_captions(samples_folder(options.captions))
    if options.memory:
        memory(captions, options.memory)
    else:
        with dask_cluster() as scheduler:
            compare(captions, options.rows, options.repeats, scheduler)


if __name__ == "__main__":
    main()
