"""`python -m eval.fetch`, what `make bench-data` calls: the one place of the evaluation that downloads."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from common.command_line import OK, Parser, WrongUse, complain, exit_status, say
from eval.data import data_root
from eval.data.torchvision_sets import torchvision_set
from eval.errors import FetchFailed
from eval.fetch.demo import fetch_fashion, fetch_stamps
from eval.fetch.hub import fetch_webdataset
from eval.fetch.reference import fetch_reference
from eval.fetch.weights import fetch_weights
from eval.tasks import Source, Task, choose_tasks

REFERENCE = "reference"


def main(arguments: Sequence[str] | None = None, prog: str = "python -m eval.fetch") -> int:
    """Run the command line, called `prog` in its help; returns 0, 1 where something could not be fetched, 2 for wrong
    use."""
    parser = Parser(prog=prog, description="Fetch evaluation data.")
    parser.add_argument("--task", help="suites and tasks, comma-separated; `reference` is the reference encoder")
    parser.add_argument("--weights", help="NAME:TAG, weights that open_clip knows how to get")
    parser.add_argument("--data", help="folder of the data sets (default: $DIHT_BENCH_DATA, else ~/.cache/diht/bench)")
    parser.add_argument("--debs", type=Path, help="folder with Debian packages that were downloaded by hand")
    parser.add_argument("--wheels", type=Path, help="folder with wheels that were downloaded by hand")
    return exit_status(lambda: _fetch_all(parser.parse_args(arguments)))


def _fetch_all(options: argparse.Namespace) -> int:
    root = data_root(options.data)
    words = [word.strip() for word in (options.task or "").split(",") if word.strip()]
    if not words and not options.weights:
        raise WrongUse("name what to fetch: --task demo, for example (make bench-data TASK=demo)")
    named = [word for word in words if word != REFERENCE]
    tasks = choose_tasks(",".join(named)).tasks if named else ()
    wanted: list[Callable[[], None]] = []
    if REFERENCE in words or "demo" in words:
        wanted.append(lambda: fetch_reference(root, say, options.wheels))
    if options.weights:
        wanted.append(lambda: fetch_weights(options.weights, root, say))
    wanted += [functools.partial(_fetch, task, root, options.debs) for task in {_what(t): t for t in tasks}.values()]
    return max([_tried(what) for what in wanted], default=OK)


def _what(task: Task) -> str:
    """The same for tasks that one download serves."""
    shared = task.fetch.get("what") or task.fetch.get("name")
    return str(shared or task.name)


def _tried(what: Callable[[], None]) -> int:
    """Does it; a failure is told and is a status, so that the other tasks are still fetched."""
    try:
        what()
    except FetchFailed as error:
        return complain(error)
    return OK


def _fetch(task: Task, root: Path, debs: Path | None) -> None:
    how = dict(task.fetch)
    match how.get("from"):
        case None:
            say(f"{task.name}: not to be had by a program. {task.get}")
        case "repository":
            say(f"{task.name}: comes with the repository")
        case "demo":
            _demo(str(how["what"]), root, debs)
        case "hub":
            folder = next(source.path for source in task.sources if source.layout == "webdataset")
            fetch_webdataset(how["name"], how.get("splits", ["test"]), root / folder, say)
        case "torchvision":
            for source in (*task.sources, *task.support):
                if source.layout == "torchvision":
                    _torchvision(task, source, root)


def _demo(what: str, root: Path, debs: Path | None) -> None:
    if what == "fashion":
        fetch_fashion(root / "torchvision" / "fashion_mnist", say, debs)
    else:
        fetch_stamps(root / "demo", say, debs)


def _torchvision(task: Task, source: Source, root: Path) -> None:
    folder = root / source.path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        data = torchvision_set(folder, source.split, source.options, download=True)
    except (OSError, RuntimeError) as error:
        raise FetchFailed(f"{task.name}: torchvision could not fetch it ({error})") from None
    say(f"{task.name}, {source.split}: {len(data):,} images in {folder}")


if __name__ == "__main__":
    raise SystemExit(main())
