"""A large data set on paper: hours, memory, files and bytes of a whole run, from figures measured here and now.

    python -m benchmarks.on_paper [--captions FOLDER] [--rows 2320000000] [--caption-rate R] [--picture-rate R]

Two real runs give bytes per row: 10,000 LAION captions through Complexity and Action, and the sample's pictures through
Text-spotting and export. Rates per core are measured along, single-threaded, or given. What follows is arithmetic: the
shares that survive are those of the LAION captions and, for pictures, of the paper's 438 million of 1.98 billion.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.label_set import laion_captions, samples_folder
from pipelines.plan import PICTURE_ROWS, UNIT_ROWS
from pipelines.stages.export import PER_SHARD
from pipelines.store.commit import read_json

GIB = 2**30
KEPT_SHARE = 438e6 / 1.985e9  # of the paper: pairs kept of those whose picture was obtained
CORES = 16


@dataclass(frozen=True)
class Kind:
    """One kind of file that a run writes."""

    name: str
    count: float
    """How many."""
    size: float
    """Bytes of one."""


def run(arguments: list[str]) -> None:
    """A real run; its rates stand in funnel.json."""
    done = subprocess.run([sys.executable, "-m", "pipelines", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


def mean_size(folder: Path, pattern: str) -> tuple[int, float]:
    """Files that match, and their bytes in all."""
    sizes = [path.stat().st_size for path in folder.glob(pattern)]
    return len(sizes), float(sum(sizes))


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", help="folder of the caption samples")
    parser.add_argument("--rows", type=float, default=2.32e9)
    parser.add_argument("--caption-rate", type=float, help="captions per second and core (default: measured)")
    parser.add_argument("--picture-rate", type=float, help="pictures per second and core (default: measured)")
    parser.add_argument("--picture-bytes", type=float, default=25e3, help="of a stored picture (default: 25 kB)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="on-paper-") as folder:
        text, pictures = Path(folder) / "text", Path(folder) / "pictures"
        captions = laion_captions(samples_folder(options.captions))
        urls = [f"https://example.org/some/path/of/a/picture-{n}.jpg" for n in range(len(captions))]
        pq.write_table(pa.table({"URL": urls, "TEXT": captions}), Path(folder) / "laion.parquet")
        manifest = ["--dataset", "laion2b", "--input", f"{folder}/laion.parquet", "--unit-rows", str(len(captions))]
        run([*manifest, "--output", str(text), "--workers", "1", "--stages", "captions,export"])
        run(["--output", str(pictures), "--workers", "1"])
        report(options, text, pictures, len(captions))


def report(options: argparse.Namespace, text: Path, pictures: Path, measured: int) -> None:
    """Print the tables."""
    funnel, sample = read_json(text / "funnel.json"), read_json(pictures / "funnel.json")
    caption_rate = options.caption_rate or measured / funnel["seconds"]["captions"]
    read = sum(read_json(path)["pictures"] for path in (pictures / "work/spotting/commits").glob("*.json"))
    picture_rate = options.picture_rate or read / sample["seconds"]["spotting"]
    decide_rate = measured / funnel["seconds"]["decide"]
    rows, survive = options.rows, funnel["kept"] / funnel["rows_in"]
    looked_at, kept = rows * survive, rows * KEPT_SHARE
    units, pieces = rows / UNIT_ROWS[1], rows / PICTURE_ROWS[1]
    shards = units * -(-kept // units // PER_SHARD)  # every unit fills its own

    def per_row(folder: Path, pattern: str, count: float) -> float:
        return mean_size(folder, pattern)[1] / max(count, 1)

    record = per_row(text, "work/captions/commits/*.json", 1)
    spotting = per_row(pictures, "work/spotting/data/*.parquet", read)
    kept_rows, gone_rows = funnel["kept"], sum(funnel["rejected"].values())
    kinds = [
        Kind("work/captions/data", units, per_row(text, "work/captions/data/*.parquet", measured) * rows / units),
        Kind("work/captions/commits", units, record),
        Kind("work/spotting/data", pieces, spotting * looked_at / pieces),
        Kind("work/spotting/commits", pieces, record),
        Kind("work/decide/commits", units, per_row(text, "work/decide/commits/*.json", 1)),
        Kind("kept", units, per_row(text, "kept/*.parquet", kept_rows) * kept / units),
        Kind("rejected", units, per_row(text, "rejected/*.parquet", gone_rows) * (rows - kept) / units),
        Kind("shards (webdataset)", shards, options.picture_bytes * kept / shards),
        Kind("subset.npy", 1, 16 * kept),
        Kind("plan.json", 1, per_row(text, "work/plan.json", 1) * units),
    ]
    core_hours = {
        "captions": rows / caption_rate / 3600,
        "spotting": looked_at / picture_rate / 3600,
        "decide": rows / decide_rate / 3600,
    }
    print(f"{rows:,.0f} rows; {survive:.1%} survive their caption (measured), {KEPT_SHARE:.1%} are kept (the paper's)")
    rates = f"{caption_rate:,.0f} captions, {picture_rate:,.1f} pictures, {decide_rate:,.0f} decisions"
    print(f"per core and second: {rates}")
    print("core-hours: " + ", ".join(f"{name} {hours:,.0f}" for name, hours in core_hours.items()) + "\n")
    print(f"| workers of {CORES} cores | " + " | ".join(core_hours) + " | in all |\n" + "|---" * 5 + "|")
    for workers in (1, 10, 100):
        hours = [value / workers / CORES for value in core_hours.values()]
        print(f"| {workers} | " + " | ".join(f"{value:,.1f} h" for value in hours) + f" | {sum(hours):,.1f} h |")
    print("\n| files | how many | size of one | in all |\n|---|---|---|---|")
    for kind in kinds:
        one, whole = kind.size, kind.size * kind.count
        print(f"| {kind.name} | {kind.count:,.0f} | {one / 2**20:,.3f} MiB | {whole / GIB:,.1f} GiB |")


if __name__ == "__main__":
    main()
