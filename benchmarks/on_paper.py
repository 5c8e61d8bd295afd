"""A large data set on paper: hours, memory, files and bytes of a whole run, from figures measured here and now.

    python -m benchmarks.on_paper [--captions FOLDER] [--rows 2320000000] [--caption-rate R] [--image-rates SLOW FAST]

Two real runs give bytes per row: 10,000 LAION captions through Complexity and Action, and the sample's images through
Text-spotting and export. Rates are processor seconds on one thread, models loaded and warm, or given; they are lower on
a processor that is shared. For Text-spotting they are a range: nobody knows how many of LAION's images hold text, so
it goes from none to half of them. What follows is arithmetic: the shares that survive are those of the LAION captions
and, for images, of the paper's 438 million of 1.98 billion.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.label_set import laion_captions, samples_folder
from benchmarks.spotting import SAMPLE, readable, run_side, split
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.pipelines.plan import IMAGE_ROWS, UNIT_ROWS
from open_diht.pipelines.stages.shards import PER_SHARD
from open_diht.pipelines.store.commit import read_json

GIB = 2**30
KEPT_SHARE = 438e6 / 1.985e9  # of the paper: pairs kept of those whose image was obtained
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
    done = subprocess.run(
        [sys.executable, "-m", "open_diht.pipelines", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def mean_size(folder: Path, pattern: str) -> tuple[int, float]:
    """Files that match, and their bytes in all."""
    sizes = [path.stat().st_size for path in folder.glob(pattern)]
    return len(sizes), float(sum(sizes))


def captions_per_second(captions: Sequence[str]) -> float:
    """By a core, once the parser is loaded and warm."""
    annotator = CaptionAnnotator()
    annotator.annotate(captions[:500])
    start = time.process_time()
    annotator.annotate(captions[500:])
    return len(captions[500:]) / (time.process_time() - start)


def images_per_second() -> tuple[float, float]:
    """By a core, where half of the images hold text, and where none does."""
    groups = split(readable(SAMPLE), "ours")
    cost = run_side("ours", groups)["cpu_s"]
    without, with_text = (cost[name] / len(files) for name, files in groups.items())
    return 2 / (without + with_text), 1 / without


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", help="folder of the caption samples")
    parser.add_argument("--rows", type=float, default=2.32e9)
    parser.add_argument("--caption-rate", type=float, help="captions per second and core (default: measured)")
    parser.add_argument(
        "--image-rates",
        type=float,
        nargs=2,
        metavar=("SLOW", "FAST"),
        help="images per second and core, half of them with text and none (default: measured)",
    )
    parser.add_argument("--image-bytes", type=float, default=25e3, help="of a stored image (default: 25 kB)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="on-paper-") as folder:
        text, images = Path(folder) / "text", Path(folder) / "images"
        captions = laion_captions(samples_folder(options.captions))
        urls = [f"https://example.org/some/path/of/a/image-{n}.jpg" for n in range(len(captions))]
        pq.write_table(pa.table({"URL": urls, "TEXT": captions}), Path(folder) / "laion.parquet")
        manifest = ["--dataset", "laion2b", "--input", f"{folder}/laion.parquet", "--unit-rows", str(len(captions))]
        run([*manifest, "--output", str(text), "--workers", "1", "--stages", "captions,export"])
        run(["--output", str(images), "--workers", "1"])
        report(options, text, images, captions)


def report(options: argparse.Namespace, text: Path, images: Path, captions: Sequence[str]) -> None:
    """Print the tables."""
    funnel = read_json(text / "funnel.json")
    caption_rate = options.caption_rate or captions_per_second(captions)
    read = sum(read_json(path)["images"] for path in (images / "work/spotting/commits").glob("*.json"))
    slow, fast = options.image_rates or images_per_second()
    measured = len(captions)
    decide_rate = measured / funnel["seconds"]["decide"]
    rows, survive = options.rows, funnel["kept"] / funnel["rows_in"]
    looked_at, kept = rows * survive, rows * KEPT_SHARE
    units, image_units = rows / UNIT_ROWS[1], rows / IMAGE_ROWS[1]
    shards = units * -(-kept // units // PER_SHARD)  # every unit fills its own

    def per_row(folder: Path, pattern: str, count: float) -> float:
        return mean_size(folder, pattern)[1] / max(count, 1)

    record = per_row(text, "work/captions/commits/*.json", 1)
    spotting = per_row(images, "work/spotting/data/*.parquet", read)
    kept_rows, gone_rows = funnel["kept"], sum(funnel["rejected"].values())
    kinds = [
        Kind("work/captions/data", units, per_row(text, "work/captions/data/*.parquet", measured) * rows / units),
        Kind("work/captions/commits", units, record),
        Kind("work/spotting/data", image_units, spotting * looked_at / image_units),
        Kind("work/spotting/commits", image_units, record),
        Kind("work/decide/commits", units, per_row(text, "work/decide/commits/*.json", 1)),
        Kind("kept", units, per_row(text, "kept/*.parquet", kept_rows) * kept / units),
        Kind("rejected", units, per_row(text, "rejected/*.parquet", gone_rows) * (rows - kept) / units),
        Kind("shards (webdataset)", shards, options.image_bytes * kept / shards),
        Kind("subset.npy", 1, 16 * kept),
        Kind("plan.json", 1, per_row(text, "work/plan.json", 1) * units),
    ]
    core_hours = {  # least and most
        "captions": (rows / caption_rate / 3600,) * 2,
        "spotting": (looked_at / fast / 3600, looked_at / slow / 3600),
        "decide": (rows / decide_rate / 3600,) * 2,
    }
    core_hours["in all"] = sum(least for least, _ in core_hours.values()), sum(most for _, most in core_hours.values())
    print(f"{rows:,.0f} rows; {survive:.1%} survive their caption (measured), {KEPT_SHARE:.1%} are kept (the paper's)")
    print(
        f"per core and second: {caption_rate:,.0f} captions; {slow:,.1f} images where half hold text, {fast:,.1f} "
        f"where none does; {decide_rate:,.0f} decisions (by the clock)"
    )
    print("core-hours: " + ", ".join(f"{name} {span(*hours)}" for name, hours in core_hours.items()) + "\n")
    print(f"| workers of {CORES} cores | " + " | ".join(core_hours) + " |\n" + "|---" * (1 + len(core_hours)) + "|")
    for workers in (1, 10, 100):
        divided = [(least / workers / CORES, most / workers / CORES) for least, most in core_hours.values()]
        shares = [span(*hours, ".1f") for hours in divided]
        print(f"| {workers} | " + " | ".join(f"{share} h" for share in shares) + " |")
    print("\n| files | how many | size of one | in all |\n|---|---|---|---|")
    for kind in kinds:
        one, whole = kind.size, kind.size * kind.count
        print(f"| {kind.name} | {kind.count:,.0f} | {one / 2**20:,.3f} MiB | {whole / GIB:,.1f} GiB |")


def span(least: float, most: float, form: str = ".0f") -> str:
    """Both ends, or one number where they are equal."""
    low, high = format(least, "," + form), format(most, "," + form)
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
