"""A run on Beam next to plain loops: its rate on two cores, and its cost next to `Cat` in other
engines; what the same command costs again, and `verify`.

Captions are LAION's; a number makes each copy a new caption.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.figures.answering import peak_mib
from benchmarks.figures.figure import Figure, Side
from benchmarks.figures.turns import Entrant, Process, sides_of, take_turns
from benchmarks.measuring import cpu_of_all
from benchmarks.weights.label_set import laion_captions, numbered, samples_folder

MINUTES = 5
PEERS = None
RUN = "open-diht filter, 1 worker"
LOOP = "Cat, a loop"
ENGINES = {"Hugging Face datasets": "datasets", "Daft": "daft", "webdataset": "webdataset"}
NOTE = (
    "A run also plans, writes annotations that a later preset decides on, and commits each unit;"
    " it reads and writes Parquet, as all sides but the loop and webdataset do."
)


def command(*words: object) -> None:
    """Run our command. The columns of its tables are not for here."""
    subprocess.run(
        [sys.executable, "-m", "open_diht", *map(str, words)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def filtered(rows: Path, output: Path, workers: int) -> None:
    words = ("--stages", "captions", "--workers", workers, "--unit-rows", 2_000)
    command("filter", "--input", rows, "--output", output, *words)


def written(path: Path, first: int, count: int) -> Path:
    """Write captions that no other file has, as Parquet."""
    captions = laion_captions(samples_folder(None))
    texts = [numbered(captions, row) for row in range(first, first + count)]
    pq.write_table(pa.table({"caption": texts}), path, row_group_size=2_000)
    return path


def engine(
    side: str, folder: str
) -> tuple[Callable[[str], None], Callable[[], float], Callable[[], float]]:
    """Return a function that decides the captions of a Parquet file with an engine."""
    from open_diht.cat import Cat, batch_rows

    def decide(rows: str) -> None:
        out = tempfile.mkdtemp(dir=folder)
        if side == RUN:
            filtered(Path(rows), Path(out), 1)
        elif side == LOOP:
            for batch in pq.ParquetFile(rows).iter_batches(batch_rows(None)):
                cat(batch["caption"])
        elif side == "datasets":
            from datasets import Dataset

            from open_diht.integrations.huggingface import keep

            table = Dataset.from_parquet(rows, cache_dir=out)
            keep(table, cat, caption="caption")[0].to_parquet(f"{out}/kept")
        elif side == "daft":
            import daft

            from open_diht.integrations.daft import cat_expression

            frame = daft.read_parquet(rows).with_column("cat", cat_expression(daft.col("caption")))
            frame.where(daft.col("cat")["cat_keep"]).write_parquet(out)
        else:
            from open_diht.integrations.webdataset import CatStage

            captions = pq.read_table(rows)["caption"].to_pylist()
            list(CatStage(cat, image=None)({"txt": caption.encode()} for caption in captions))

    cat = Cat()
    return decide, cpu_of_all, peak_mib


def engines(quick: bool, work: Path) -> Figure:
    few, many, repeats = (100, 300, 1) if quick else (1_000, 11_000, 3)
    settings = {"threads": 1, "preset": "paper"}

    def entrant(side: str, of: str = "") -> Entrant:
        start = partial(Process, __name__, "engine", side=side, folder=str(work))
        return Entrant(version(of) if of else "", settings, start)

    known = {
        LOOP: entrant(LOOP),
        RUN: entrant(RUN),
        **{name: entrant(side, side) for name, side in ENGINES.items()},
    }
    files = [written(work / "0.parquet", 0, few)]  # the first answer loads
    first = few
    for number in range(repeats):
        for count in (few, many):
            files.append(written(work / f"{number}-{count}.parquet", first, count))
            first += count
    answers = take_turns(known, [str(file) for file in files])
    rates = {
        # The difference of two passes has no start, no import and no model.
        name: [
            (many - few) / (long.cpu_s - short.cpu_s)
            for short, long in zip(given[1::2], given[2::2], strict=True)
        ]
        for name, given in answers.items()
    }
    what = f"{many - few:,} LAION captions, without the start, in one process"
    return Figure("engines", "captions per core-second", what, sides_of(known, rates), LOOP, NOTE)


def loop(rows: str) -> None:
    """Annotate and decide the captions of a Parquet file, and write nothing."""
    from open_diht.cat import Cat

    Cat()(pq.read_table(rows)["caption"].to_pylist())


def in_processes(rows: Sequence[Path]) -> None:
    """Do plain loops over files in as many processes."""
    code = f"import sys; from {__name__} import loop; loop(sys.argv[1])"
    running = [subprocess.Popen([sys.executable, "-c", code, str(each)]) for each in rows]
    for process in running:
        if process.wait():
            raise RuntimeError(f"a plain loop ended with {process.returncode}, see above")


def wall_s(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def measure(quick: bool, work: Path) -> list[Figure]:
    count, repeats = (200, 1) if quick else (20_000, 3)
    first = 1_000_000  # captions of no other figure
    seconds: dict[str, list[float]] = {}
    for number in range(repeats):
        whole = written(work / f"whole-{number}.parquet", first, count)
        halves = [
            written(work / f"half-{number}-{half}.parquet", first + half * count // 2, count // 2)
            for half in (0, 1)
        ]
        first += count
        sides: dict[str, Callable[[], object]] = {
            "a loop, 1 process": partial(in_processes, [whole]),
            "Beam, 1 worker": partial(filtered, whole, work / f"one-{number}", 1),
            "loops, 2 processes": partial(in_processes, halves),
            "Beam, 2 workers": partial(filtered, whole, work / f"two-{number}", 2),
            "the same command again": partial(filtered, whole, work / f"two-{number}", 2),
            "verify": partial(command, "verify", work / f"two-{number}"),
        }
        for name, do in sides.items():
            seconds.setdefault(name, []).append(wall_s(do))
        shutil.rmtree(work / f"one-{number}")
    found = [Side(name, "", {"threads": 1}, values) for name, values in seconds.items()]
    what = f"{count:,} LAION captions on two cores, from the command to its end"
    return [
        engines(quick, work),
        Figure("runs", "seconds", what, found, "loops, 2 processes", NOTE),
    ]
