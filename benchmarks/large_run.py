"""Filter millions of pairs as a user would, kill the run in the middle, resume it, and say what it
took.

    python -m benchmarks.large_run FOLDER [--rows 10000000] [--kill-at 0.5] [--workers 2]
    [--captions FOLDER]

The pairs are made: LAION's 10,000 sample captions in turn, each copy with its own number so that it
is another caption, with one JPEG image of 8 x 8 pixels, in tars of 10,000 pairs as img2dataset
writes them. They are kept in `FOLDER/pairs` (2.5 KiB a pair). The run is

    open-diht filter --input FOLDER/pairs --output FOLDER/out --stages captions,export --export
    index

It ends at `--kill-at` of the caption stage by SIGKILL to all its processes; the same command then
completes it. CPU time and memory (the proportional set size) are those of all processes of the run,
read every two seconds. After the run, the first tars are filtered by themselves without a kill, and
their kept rows must be those that the large run kept.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tarfile
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow.compute as pc
import pyarrow.dataset as ds
from PIL import Image

from benchmarks.measuring import parser_of, print_table, processor
from benchmarks.weights.label_set import laion_captions, numbered, samples_folder
from open_diht.pipelines.manifests.plan import known_plan
from open_diht.pipelines.store.layout import Layout

TAR_ROWS = 10_000
FIRST = "000[01]?.tar"
"""The tars that are filtered by themselves in the end: 20, or as many as there are."""


class Took(NamedTuple):
    seconds: float
    cpu_seconds: float
    peak_mib: float


def make_tar(captions: list[str], folder: Path, rows: int, number: int) -> None:
    """Write one tar of pairs, unless it is there."""
    path = folder / f"{number:05d}.tar"
    if path.exists():
        return
    image = io.BytesIO()
    Image.new("RGB", (8, 8), "gray").save(image, "JPEG")
    parts = []
    for row in range(number * TAR_ROWS, min(rows, (number + 1) * TAR_ROWS)):
        for ending, content in (
            ("jpg", image.getvalue()),
            ("txt", numbered(captions, row).encode()),
        ):
            member = tarfile.TarInfo(f"{row:09d}.{ending}")
            member.size = len(content)
            # Blocks of 512 bytes, joined here: `TarFile.addfile` would take three times as long.
            parts += [member.tobuf(), content, bytes(-len(content) % 512)]
    path.with_suffix(".part").write_bytes(b"".join([*parts, bytes(1024)]))
    path.with_suffix(".part").rename(path)


def command(pairs: str, output: Path, workers: int) -> list[str]:
    words = ["--stages", "captions,export", "--export", "index", "--workers", str(workers)]
    return [
        sys.executable,
        "-m",
        "open_diht.pipelines",
        "--input",
        pairs,
        "--output",
        str(output),
        *words,
    ]


def committed(output: Path) -> dict[str, int]:
    """Return the units of the caption stage that are done, with the times at which they were."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in (output / "work" / "captions" / "commits").glob("[!.]*")
    }


def run(words: list[str], output: Path, kill_at: float = 1.0) -> Took:
    """Run a command to its end, or kill it when this fraction of its caption units is done."""
    began = time.perf_counter()
    peak = 0.0
    cpu = dict[int, float]()
    started = psutil.Popen(words)
    while started.poll() is None:
        own = [started, *started.children(recursive=True)]
        used = 0
        for one in own:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
                cpu[one.pid] = sum(one.cpu_times()[:2])
                used += one.memory_full_info().pss
        peak = max(peak, used / 2**20)
        units = len((known_plan(Layout(output).plan) or {"units": ()})["units"])
        if kill_at < 1 and len(committed(output)) >= kill_at * units > 0:
            for one in own:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            started.wait()
            break
        time.sleep(2)
    else:
        if started.returncode:
            raise SystemExit(f"the run ended with status {started.returncode}")
    return Took(time.perf_counter() - began, sum(cpu.values()), peak)


def kept_of(output: Path) -> list[str]:
    """Return the ids of the rows that a run kept of the first tars, sorted."""
    first = pc.less(ds.field("__key__"), f"{20 * TAR_ROWS:09d}")
    return sorted(
        ds.dataset(output / "kept").to_table(columns=["uid"], filter=first)["uid"].to_pylist()
    )


def main() -> None:
    arguments = parser_of("benchmarks.large_run", __doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--kill-at", type=float, default=0.5)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--captions", help="folder of the caption samples")
    options = arguments.parse_args()
    pairs, output, alone = (options.folder / name for name in ("pairs", "out", "alone"))
    pairs.mkdir(parents=True, exist_ok=True)
    captions = laion_captions(samples_folder(options.captions))
    tars = -(-options.rows // TAR_ROWS)
    with ProcessPoolExecutor(options.workers) as pool:
        list(pool.map(partial(make_tar, captions, pairs, options.rows), range(tars)))

    words = command(f"{pairs}/*.tar", output, options.workers)
    first = run(words, output, options.kill_at)
    before = committed(output)
    second = run(words, output)
    after = committed(output)
    run(command(f"{pairs}/{FIRST}", alone, options.workers), alone)
    funnel = json.loads((output / "funnel.json").read_text(encoding="utf-8"))
    records = sorted((output / "work").glob("*/commits/[!.]*"))
    cpu: dict[str, float] = defaultdict(float)
    for record in records:
        cpu[record.parts[-3]] += json.loads(record.read_text(encoding="utf-8"))["cpu_seconds"]
    sizes = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
    rows = [
        ("pairs", f"{options.rows:,}"),
        ("until the kill, s", f"{first.seconds:,.0f}"),
        ("caption units done by then", f"{len(before):,} of {len(after):,}"),
        ("units done again", sum(after[name] != done for name, done in before.items())),
        ("resumed run, s", f"{second.seconds:,.0f}"),
        ("CPU time of both, s", f"{first.cpu_seconds + second.cpu_seconds:,.0f}"),
        *((f"of it for units of {stage}, s", f"{seconds:,.0f}") for stage, seconds in cpu.items()),
        ("peak memory of all processes, MiB", f"{max(first.peak_mib, second.peak_mib):,.0f}"),
        ("files of the output", f"{len(sizes):,}"),
        ("size of the output, GiB", f"{sum(sizes) / 2**30:.1f}"),
        ("kept rows of the first tars as without a kill", kept_of(output) == kept_of(alone)),
        ("pairs kept", f"{funnel['kept']:,}"),
    ]
    print(f"{processor()}, {options.workers} workers\n")
    print_table(["", "value"], rows)


if __name__ == "__main__":
    main()
