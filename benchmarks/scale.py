"""Beam against plain processes on the same units: workers, shards, Prism, Dask; and a worker's memory against its rows.

    python -m benchmarks.scale [--captions FOLDER] [--rows N] [--repeats K]
    python -m benchmarks.scale --memory 100000 1000000

A plain process calls the caption stage on one unit after another: read, annotate, write, commit. Beam does the same
through FnApiRunner, in two shards as two invocations that each do every second unit, through Prism in one worker
process (where `make prism` has built it), and through Dask on a scheduler and two workers of this machine. Wall time,
start of the processes and loading of the models included on all sides, but that Dask's workers are there before, as on
a cluster, and have imported this program; the sides run in turn. Memory is the peak resident set of one process that
does all the rows; captions are LAION's, each copy made distinct by a number so that no cache serves them.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.label_set import laion_captions, samples_folder
from deploy.dask.cluster import Cluster
from open_diht.filters.captions.annotate import provenance
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.engine.jobs import run_units, worker_log
from open_diht.pipelines.engine.stage import DoUnit
from open_diht.pipelines.plan import keep_plan, make_plan
from open_diht.pipelines.runners import Workers, make_backend
from open_diht.pipelines.runners.prism import BUILT
from open_diht.pipelines.stages.captions import CaptionStage
from open_diht.pipelines.store.layout import Layout

UNIT_ROWS = 2_000
PLAIN = """
import sys
import benchmarks  # first: one thread, as in a run
from pathlib import Path
from benchmarks.scale import stage_of
stage = stage_of(Path(sys.argv[1]))
stage.setup()
for unit in sys.argv[2:]:
    stage.do(unit)
# Not ru_maxrss: a child inherits its parent's.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def stage_of(output: Path) -> CaptionStage:
    """The caption stage on an output folder."""
    return CaptionStage(Layout(output), load_dataset("custom"), str(provenance()))


def write_manifest(path: Path, captions: list[str], rows: int) -> None:
    """A Parquet manifest of `rows` distinct captions in row groups of `UNIT_ROWS`."""
    texts = [captions[row % len(captions)] + (f" {row}" if row >= len(captions) else "") for row in range(rows)]
    urls = [f"https://example.org/{row}.jpg" for row in range(rows)]
    pq.write_table(pa.table({"url": urls, "caption": texts}), path, row_group_size=UNIT_ROWS)


def units_of(manifest: Path, output: Path, unit_rows: int) -> list[str]:
    """Plan the manifest into an output folder; the unit names."""
    plan = make_plan(str(manifest), load_dataset("custom"), 1, unit_rows)
    keep_plan(Layout(output).plan, plan)
    return [unit.name for unit in plan.units]


def run_plain(output: Path, units: list[str], processes: int) -> list[int]:
    """Do the units in plain processes; the peak memory of each in MiB."""
    parts = [units[part::processes] for part in range(processes)]
    command = [sys.executable, "-c", PLAIN, str(output)]
    running = [subprocess.Popen([*command, *part], stdout=subprocess.PIPE, text=True) for part in parts]
    return [int(process.communicate()[0]) // 1024 for process in running]


SHARD = """
import sys
import benchmarks  # first: one thread, as in a run
from pathlib import Path
from benchmarks.scale import run_beam
run_beam(Path(sys.argv[1]), sys.argv[2:], 1)
"""


def run_shards(output: Path, units: list[str], shards: int) -> None:
    """Do the units through Beam in as many invocations, each with one worker."""
    command = [sys.executable, "-c", SHARD, str(output)]
    running = [subprocess.Popen([*command, *units[shard::shards]]) for shard in range(shards)]
    if any(process.wait() for process in running):
        raise RuntimeError("a shard failed")


def run_prism(output: Path, units: list[str]) -> None:
    """Do the units through Beam's portable runner: Job API, staged artefacts, one worker process."""
    stage = DoUnit(stage_of(output))
    with worker_log(output / "workers.log"):
        run_units("captions", units, stage, 1, backend=make_backend("prism"), todo=output)


def run_dask(output: Path, units: list[str], scheduler: str) -> None:
    """Do the units through Beam's DaskRunner, on a cluster that is up."""
    backend = make_backend("dask", workers=Workers(scheduler=scheduler))
    with worker_log(output / "workers.log"):
        run_units("captions", units, DoUnit(stage_of(output)), 2, backend=backend)


@contextlib.contextmanager
def dask_cluster() -> Iterator[str]:
    """A scheduler with two workers of this machine; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), port, 2)
        print(cluster.up(), flush=True)
        try:
            make_backend("dask", workers=Workers(scheduler=cluster.address)).check([])  # they import this program now
            yield cluster.address
        finally:
            cluster.down()


def run_beam(output: Path, units: list[str], workers: int) -> None:
    """Do the units through Beam."""
    with worker_log(output / "workers.log"):
        run_units("captions", units, DoUnit(stage_of(output)), workers)


def compare(captions: list[str], rows: int, repeats: int, scheduler: str) -> None:
    """Print the table of rates; `scheduler` is the address of Dask's."""
    sides: dict[str, Callable[[Path, list[str]], object]] = {
        "1 plain process": lambda output, units: run_plain(output, units, 1),
        "Beam, 1 worker": lambda output, units: run_beam(output, units, 1),
        "2 plain processes": lambda output, units: run_plain(output, units, 2),
        "Beam, 2 workers": lambda output, units: run_beam(output, units, 2),
        "2 shards of Beam, 1 worker each": lambda output, units: run_shards(output, units, 2),
        "Dask, 2 workers": lambda output, units: run_dask(output, units, scheduler),
    }
    if BUILT.exists():
        sides["Prism, its 1 worker"] = run_prism
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
    print(f"{rows:,} captions in units of {UNIT_ROWS:,}, {repeats} repeats in turn, wall time with start-up\n")
    print("| side | captions per second | share of as many plain processes |\n|---|---|---|")
    rate = {name: rows / statistics.median(times) for name, times in seconds.items()}
    for name, value in rate.items():
        plain = "2 plain processes" if "2" in name else "1 plain process"
        # Of each repeat its own ratio: what else the machine does changes from one to the next.
        shares = sorted(other / own for own, other in zip(seconds[name], seconds[plain], strict=True))
        print(f"| {name} | {value:,.0f} | {statistics.median(shares):.0%} ({shares[0]:.0%} to {shares[-1]:.0%}) |")


def memory(captions: list[str], counts: list[int]) -> None:
    """Print the table of peak memory."""
    print("| rows in one process | peak memory, MiB | captions per second |\n|---|---|---|")
    for rows in counts:
        with tempfile.TemporaryDirectory() as folder:
            manifest, output = Path(folder) / "manifest.parquet", Path(folder) / "out"
            write_manifest(manifest, captions, rows)
            units = units_of(manifest, output, 50_000)
            began = time.perf_counter()
            (peak,) = run_plain(output, units, 1)
            print(f"| {rows:,} | {peak:,} | {rows / (time.perf_counter() - began):,.0f} |", flush=True)


def main() -> None:
    """Command line; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--rows", type=int, default=40_000)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--memory", type=int, nargs="+", help="measure memory at these numbers of rows instead")
    options = arguments.parse_args()
    captions = laion_captions(samples_folder(options.captions))
    if options.memory:
        memory(captions, options.memory)
    else:
        with dask_cluster() as scheduler:
            compare(captions, options.rows, options.repeats, scheduler)


if __name__ == "__main__":
    main()
