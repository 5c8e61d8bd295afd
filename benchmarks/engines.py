"""Core-seconds of CAT on captions in other engines, as ratios to those of `open-diht filter --stages captions`.

    python -m benchmarks.engines [--captions FOLDER] [--repeats K]

A side is a process that reads Parquet and decides; all but `Cat` and `webdataset` write rows, too. It first passes over
1,000 captions, uncounted. Then the CPU time of the process and its descendants is taken for a pass over these 1,000
again, and for one over all distinct captions of the samples; the difference is the figure. So imports, models and a
run's whole start do not count, and no side has met the new captions before. Each round starts the sides again, one
after the other; NumPy has one thread, as in a run. Ray is not among them: its daemons take more than the captions, and
vary.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import suppress
from select import select

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.label_set import cc3m_captions, laion_captions, samples_folder
from benchmarks.measuring import parser_of, print_table, ratios
from open_diht.cat import Cat, batch_rows
from open_diht.common.run_command import ONE_THREAD

FIRST = 1_000
SIDES = ("run", "Cat", "datasets", "daft", "webdataset", "datatrove")


def decide(side: str, rows: str, out: str) -> None:
    """Make the pass of a side over a Parquet file, with `out` for its files."""
    if side == "run":
        words = ["filter", "--stages", "captions", "--workers", "1", "--input", rows, "--output", out]
        subprocess.run([sys.executable, "-m", "open_diht", *words], check=True)
    elif side == "Cat":
        for batch in pq.ParquetFile(rows).iter_batches(batch_rows(None)):
            Cat()(batch["caption"])
    elif side == "datasets":
        from datasets import Dataset

        from open_diht.integrations.huggingface import keep

        keep(Dataset.from_parquet(rows, cache_dir=out), Cat(), caption="caption")[0].to_parquet(f"{out}/kept")
    elif side == "daft":
        import daft

        from open_diht.integrations.daft import cat_expression

        table = daft.read_parquet(rows).with_column("cat", cat_expression(daft.col("caption")))
        table.where(daft.col("cat")["cat_keep"]).write_parquet(out)
    elif side == "webdataset":  # its stage, without the tars
        from open_diht.integrations.webdataset import CatStage

        captions = pq.read_table(rows)["caption"].to_pylist()
        list(CatStage(Cat(), image=None)({"txt": caption.encode()} for caption in captions))
    else:
        from datatrove.executor import LocalPipelineExecutor
        from datatrove.pipeline.readers import ParquetReader
        from datatrove.pipeline.writers import JsonlWriter

        from open_diht.integrations.datatrove import CatFilter

        reader = ParquetReader(os.path.dirname(rows), glob_pattern=os.path.basename(rows), text_key="caption")
        LocalPipelineExecutor([reader, CatFilter(), JsonlWriter(out)], logging_dir=f"{out}/log").run()


def serve(side: str) -> None:
    """Make the passes that standard input asks for, and answer each with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print too
    for line in sys.stdin:
        decide(side, *line.split())
        print("done", file=answers, flush=True)


def sample(process: int, used: dict[tuple[int, float], float]) -> None:
    """Update the CPU seconds of a process and of each descendant."""
    # The system's own sum misses children that no process waits for.
    with suppress(psutil.NoSuchProcess):
        for one in [top := psutil.Process(process), *top.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                used[one.pid, one.create_time()] = sum(one.cpu_times()[:2])


def passed(side: subprocess.Popen[str], captions: list[str], folder: str) -> float:
    """Return the CPU seconds of a pass of a side over captions."""
    out, used = tempfile.mkdtemp(dir=folder), dict[tuple[int, float], float]()
    pq.write_table(pa.table({"caption": captions}), f"{out}.parquet")
    sample(side.pid, used)
    before = sum(used.values())
    print(f"{out}.parquet {out}", file=side.stdin, flush=True)
    answers = side.stdout
    assert answers is not None  # the side was started with a pipe
    while not select([answers], [], [], 0.05)[0]:
        sample(side.pid, used)
    if not answers.readline():
        sys.exit(f"a side failed, see above: {side.args!r}")
    sample(side.pid, used)
    return sum(used.values()) - before


def main() -> None:
    """Print the table."""
    arguments = parser_of("benchmarks.engines", __doc__)
    arguments.add_argument("--captions", help="folder of the caption samples")
    arguments.add_argument("--repeats", type=int, default=2)
    arguments.add_argument("--serve", choices=SIDES, help="be a side: the benchmark starts itself so")
    options = arguments.parse_args()
    if options.serve:
        return serve(options.serve)
    folder, pipe = samples_folder(options.captions), subprocess.PIPE
    captions = list(dict.fromkeys(laion_captions(folder) + cc3m_captions(folder)))
    command = [sys.executable, "-m", "benchmarks.engines", "--serve"]
    environment = os.environ | ONE_THREAD
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as work:
        for _ in range(options.repeats):
            for name in SIDES:
                side = subprocess.Popen([*command, name], env=environment, stdin=pipe, stdout=pipe, text=True)
                _, less, more = (passed(side, some, work) for some in (captions[:FIRST], captions[:FIRST], captions))
                side.communicate()
                seconds[name].append((more - less) * 1_000 / (len(captions) - FIRST))
                print(f"{name}: {seconds[name][-1]:.3f}", file=sys.stderr, flush=True)
    print_table(
        ["side", "core-s per 1,000 captions", "ratio to a run: lowest", "median", "highest"],
        (
            [name, f"{statistics.median(each):.3f}", *(f"{ratio:.2f}" for ratio in ratios(each, seconds["run"]))]
            for name, each in seconds.items()
        ),
    )


if __name__ == "__main__":
    main()
