"""What the driver needs at 100 thousand units: seconds and memory of plan, sums, conservation check and final export.

The units are simulated, their records are real: a few units are filtered, and their annotations, parts and commit
records are linked under the names of all the others. A run that finds everything done then does what remains: read the
plan and the records, sum up, check conservation from the data, write subset, report and funnel.

    python -m benchmarks.many_units [--units 100000] [--uids 20000000]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.plan import keep_plan, load_plan, make_plan
from open_diht.pipelines.stages.subset import sort_uids
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout

ROWS = 8  # of a unit
CAPTIONS = (
    "A brown dog runs after a red ball",
    "Blue mug",
    "Two cats sleep on a mat",
    "Nike Air Max 90 - Men's Running Shoes",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--uids", type=int, default=20_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-units-") as folder:
        _driver(Path(folder), options.units)
    _subset(options.uids)


def _driver(folder: Path, units: int) -> None:
    manifest = folder / "manifest.tsv"
    with open(manifest, "w", encoding="utf-8") as file:
        file.write("n\tcaption\n")
        for n in range(units * ROWS):
            file.write(f"{n:09d}\t{CAPTIONS[n % 4]}\n")
    small = folder / "small.tsv"
    with open(manifest, encoding="utf-8") as source, open(small, "w", encoding="utf-8") as file:
        file.writelines(line for line, _ in zip(source, range(20 * ROWS + 1), strict=False))
    _filter(small, folder / "template")
    target = Layout(folder / "out")
    began = time.time()
    keep_plan(target.plan, make_plan(str(manifest), load_dataset("custom"), 1, ROWS))
    print(f"(plan of {units:,} units made in {time.time() - began:.0f} s)")
    template = Layout(folder / "template")
    names = [unit.name for unit in load_plan(target.plan).units]
    models = [unit.name for unit in load_plan(template.plan).units]
    began = time.time()
    for index, name in enumerate(names):
        _link(template, models[index % len(models)], target, name)
    print(f"({len(names):,} units linked: {time.time() - began:.0f} s)")
    seconds, peak, said = _filter(manifest, folder / "out")
    funnel = read_json(target.root / "funnel.json")
    print(said)
    size = target.plan.stat().st_size / 2**20
    print(
        f"driver, {len(names):,} units, {funnel['rows_in']:,} rows: {seconds:.0f} s, peak {peak:.0f} MiB, "
        f"plan.json {size:.0f} MiB"
    )


def _link(template: Layout, model: str, target: Layout, name: str) -> None:
    pairs = [
        (template.commit("captions", model), target.commit("captions", name)),
        (template.data("captions", model), target.data("captions", name)),
        (template.commit("decide", model), target.commit("decide", name)),
        (template.data("decide", model), target.data("decide", name)),
        (template.commit("pair_keys", model), target.commit("pair_keys", name)),
        (template.slices("pair_keys", model), target.slices("pair_keys", name)),
        (template.part("kept", model), target.part("kept", name)),
        (template.part("rejected", model), target.part("rejected", name)),
    ]
    for source, link in pairs:
        if source.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(str(source), str(link))


def _filter(manifest: Path, output: Path) -> tuple[float, float, str]:
    """Seconds, peak MiB and the last lines of a run on captions alone."""
    code = (
        "import sys, resource; from open_diht.pipelines.cli import main; status = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    )
    arguments = ["--dataset", "custom", "--input", str(manifest), "--output", str(output), "--unit-rows", str(ROWS)]
    arguments += ["--stages", "captions,export"]
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--workers", "1"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    *lines, peak = done.stdout.strip().splitlines()
    return time.time() - began, int(peak) / 1024, "\n".join(lines[-20:])


def _subset(count: int) -> None:
    """The out-of-core sort alone, on random uids."""
    generator = np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="many-units-") as folder:
        uids = (
            [row.tobytes().hex() for row in generator.integers(0, 256, (100_000, 16), np.uint8)]
            for _ in range(-(-count // 100_000))
        )
        written = sort_uids(uids, (), Path(folder) / "subset.npy")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"subset.npy, {written:,} uids: {time.time() - began:.0f} s, peak {peak / 1024:.0f} MiB "
        f"({(peak - before) / 1024:.0f} MiB more than before)"
    )


if __name__ == "__main__":
    main()
