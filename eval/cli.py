"""Command line of `make bench`: loads a model, runs tasks and writes a folder of results.

Exit status: 0 every task has a number; 1 a task has none, or a training split is broken (a row of
the results gives the reason), or features contain NaN or infinity, or a file cannot be read or
written, or ranks do not share the cache, or the folder of results was removed meanwhile; 2 wrong
use, or a model that does not load.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from open_diht.common.command_line import (
    FAILED,
    OK,
    Parser,
    WrongUse,
    add_fields,
    check_folder,
    command,
    complain,
    say,
    write_numbers,
)
from open_diht.common.fields import Count, Positive
from open_diht.common.lease import LeaseLost, held
from open_diht.common.run_command import ended_at_once
from open_diht.common.spelling import spelled
from open_diht.eval.errors import EvalError, ModelError

if TYPE_CHECKING:
    from open_diht.eval.task import Shots, Task

# Ranks wait for the slowest one at the end of a set. With uneven images that can be long without
# being a failure.
PATIENCE_S = 12 * 3600.0


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Options of `make bench` next to --model."""

    pretrained: str | None = None
    """Path of the weights; of an architecture also a tag fetched before, or `random`."""
    tasks: str = "demo"
    """Suites, suite files, tasks; comma-separated."""
    output: str | None = None
    """Folder for the results (default: out/bench/<model>)."""
    data: str | None = None
    """Folder of the data sets (default: $DIHT_BENCH_DATA, else diht/bench in the user's cache)."""
    cache: str | None = None
    """Folder of encoded features (default: diht/features in the user's cache)."""
    batch: Positive | None = None
    """Images encoded at once (default: 64 on a CPU, 256 on a GPU)."""
    text_batch: Positive | None = None
    """Texts encoded at once (default: 256, 1024 on a GPU)."""
    workers: Count | None = None
    """Processes that read images (default: cores - 1, at most 8)."""
    device: str | None = None
    """The device, cpu or cuda (default: cuda if there is one)."""
    precision: str = "fp32"
    """Precision: fp32, bf16 or fp16 autocast."""
    strict_ties: bool = False
    """Retrieval: rank wrong ties ahead of the right item."""
    sample: Positive | None = None
    """Evaluate at most this many random items of each task."""
    shots: str = "1,2,4,5,8,16"
    """Few-shot: images per class, or 0."""
    seeds: Positive = 3
    """Few-shot: draws of the shots, at least 3 for intervals."""
    linear_probe: bool = False
    """Also train a linear probe on all training images, after CLIP's protocol."""
    power: bool = False
    """Print the differences that the tasks can detect, and stop."""
    list: bool = False
    """List suites and tasks, and stop."""


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.eval"
) -> argparse.Namespace:
    """Parse the command line, by default that of this process."""
    parser = Parser(
        prog=prog,
        description=(
            "Evaluate a model. Every number has a protocol, and an interval or a note why it has"
            " none."
        ),
    )
    parser.add_argument(
        "--model",
        default="reference",
        help=(
            f"a folder that `{spelled('train')}` or open_clip exported, an architecture of"
            " open_clip or one of the authors' models (with --pretrained),"
            " open_clip:<model>:<weights>, or `reference`, the offline reference encoder (default)"
        ),
    )
    add_fields(parser, BenchOptions)
    parser.add_script_options("the content of results.json")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    # open_clip warns of random weights even where a checkpoint replaces them.
    logging.basicConfig(level=logging.ERROR)
    try:
        return _list() if options.list else _bench(options)
    except OSError as error:
        # A full disk, a folder without write permission, a file that disappeared.
        what = f"{error.filename or 'a file'}: {error.strerror or error}"
        return complain(f"{what}; check --output, --cache and --data")


_STOPPED = "stopped; encoded features are kept. Run the same command to resume"
main = command(parse, _run, failed=(EvalError, LeaseLost), stopped=_STOPPED)


def _list() -> int:
    from open_diht.eval.tasks import load_suite, suite_names

    for name in suite_names():
        suite = load_suite(name)
        say(f"{name}: {' '.join(suite.about.split())}")
        for task in suite.tasks:
            say(f"  {task.name:24} {task.kind:15} {task.metric:15} {task.title}")
    return OK


def _bench(options: argparse.Namespace) -> int:
    from open_diht.eval.task import sampled
    from open_diht.eval.tasks import choose_tasks, suite_files

    # Before torch is loaded, so that a typing error is reported at once.
    suite = sampled(choose_tasks(options.tasks), options.sample)
    own = suite_files(options.tasks)
    if options.power:
        from open_diht.eval.power import power_table

        say(power_table(suite))
        return OK

    with ended_at_once():
        from open_diht.common.ranks import joined_ranks
        from open_diht.eval.comparison import main_rows
        from open_diht.eval.data import Memo, check_options, data_root
        from open_diht.eval.features import FeatureCache
        from open_diht.eval.models import load_model
        from open_diht.eval.records import feature_folder
        from open_diht.eval.report import write_report
        from open_diht.eval.run import collect_examples, run_tasks
        from open_diht.eval.session import Session
        from open_diht.eval.task import Options

    check_options(suite.tasks)
    data = data_root(options.data)
    shots = _shots(options.shots, options.seeds)
    output = Path(options.output or Path("out") / "bench" / _plain(options.model))
    folder = Path(options.cache).expanduser() if options.cache else feature_folder()
    check_folder("--output", output)
    _can_be_folder(output, "output")
    _can_be_folder(folder, "cache")
    if options.data and not data.is_dir():
        raise WrongUse(f"--data {data} is not a folder")
    try:
        model = load_model(
            options.model,
            data=data_root(),  # models belong to no data set
            pretrained=options.pretrained,
            device=_device(options.device),
            precision=options.precision,
        )
    except ModelError as error:
        raise WrongUse(str(error)) from None
    with joined_ranks("cpu", PATIENCE_S) as group, held(output):
        cores = len(os.sched_getaffinity(0))
        on_cpu = model.record["device"] == "cpu"
        cache = FeatureCache(
            folder,
            model,
            group,
            batch=options.batch or (64 if on_cpu else 256),
            text_batch=options.text_batch or (256 if on_cpu else 1024),
            # One core is left for this process.
            workers=min(8, cores - 1) if options.workers is None else options.workers,
            progress=group.first,
        )
        tell = say if group.first else lambda _: None
        tell(f"{model.name}: {len(suite.tasks)} tasks, results in {output}/")
        session = Session(
            cache=cache,
            root=data,
            memo=Memo(folder / "hashes"),
            output=output,
            options=Options(
                strict_ties=options.strict_ties, shots=shots, linear_probe=options.linear_probe
            ),
        )
        run = run_tasks(suite, session, tell)
        # Features are shared, so all ranks collect examples; the first one writes the report.
        examples = collect_examples(suite.tasks, run.results, session)
        rows = [result.row() for result in run.results]
        if group.first:
            write_report(rows, output, suites=own, examples=examples)
            write_numbers(options, rows)
        measured = [task for task, row in main_rows(rows).items() if row["value"] is not None]
        counted = f"{len(measured)} of {len(suite.tasks)} tasks measured"
        tell(f"{counted}; results.json, results.md and report.html in {output}/")
        if run.absent:
            tell(
                _how_to_get(
                    [task for task in suite.tasks if task.name in run.absent], len(suite.tasks)
                )
            )
        return FAILED if run.broken or len(measured) < len(suite.tasks) else OK


def _how_to_get(absent: Sequence[Task], tasks: int) -> str:
    """Return a line with the command for the tasks whose data it can fetch, and the names of the
    other tasks."""
    # Nothing fetches what comes with the repository.
    fetchable = [
        task.name for task in absent if task.fetch.get("from", "repository") != "repository"
    ]
    fetched = ",".join(fetchable)
    by_hand = ", ".join(task.name for task in absent if task.name not in fetchable)
    ways = [spelled("bench-data", task=fetched)] if fetched else []
    ways += [f"by hand, see their lines above: {by_hand}"] if by_hand else []
    return f"{len(absent)} of {tasks} tasks have no data here. To get it: {'; '.join(ways)}"


def _can_be_folder(path: Path, what: str) -> None:
    """Raise `WrongUse` if a file is in the way of the folder `path`."""
    there = next((one for one in (path, *path.parents) if one.exists()), None)
    if there is not None and not there.is_dir():
        raise WrongUse(f"{what} {path} cannot be a folder, because {there} is a file")


def _device(device: str | None) -> str:
    import torch

    from open_diht.common.devices import check_device, device_here

    device = device_here() if device is None else device
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise WrongUse(f"device {device!r} is unknown; choose cpu or cuda")
    check_device(device)
    if device != "cuda":
        return device
    rank = os.environ.get("LOCAL_RANK", "0")
    count = torch.cuda.device_count()
    if int(rank) >= count:
        raise WrongUse(
            f"process {rank} of this machine has no GPU of its own, as torch sees {count}, counted"
            f" from 0; start at most {count} processes"
        )
    return f"cuda:{rank}"


def _shots(text: str, seeds: int) -> Shots | None:
    from open_diht.eval.task import Shots

    if text.strip() == "0":
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise WrongUse(
            f"shots {text!r} are not whole numbers above 0, comma-separated (or 0 for none)"
        )
    return Shots(counts=tuple(sorted({int(word) for word in words})), seeds=tuple(range(seeds)))


def _plain(word: str) -> str:
    path = Path(word)
    name = path.parent.name if path.name == "export" else path.name
    return (
        "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
        or "model"
    )
