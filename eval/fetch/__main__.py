"""`python -m eval.fetch`, what `make bench-data` calls: the one place of the evaluation that downloads."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from eval.data import data_root
from eval.data.torchvision_sets import torchvision_set
from eval.errors import FetchFailed, WrongUse
from eval.fetch.demo import fetch_fashion, fetch_stamps
from eval.fetch.hub import fetch_webdataset
from eval.fetch.reference import fetch_reference
from eval.fetch.weights import fetch_weights
from eval.tasks import Source, Task, choose_tasks

OK, FAILED, WRONG_USE = 0, 1, 2
REFERENCE = "reference"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message} (see --help)")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m eval.fetch") -> int:
    """Run the command line, called `prog` in its help; returns 0, 1 where something could not be fetched, 2 for wrong
    use."""
    parser = _Parser(prog=prog, description="Fetch evaluation data.", allow_abbrev=False)
    parser.add_argument("--task", help="suites and tasks, comma-separated; `reference` is the reference encoder")
    parser.add_argument("--weights", help="NAME:TAG, weights that open_clip knows how to get")
    parser.add_argument("--data", help="folder of the data sets (default: $DIHT_BENCH_DATA, else ~/.cache/diht/bench)")
    parser.add_argument("--debs", type=Path, help="folder with Debian packages that were downloaded by hand")
    parser.add_argument("--wheels", type=Path, help="folder with wheels that were downloaded by hand")
    try:
        options = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))
        root = data_root(options.data)
        words = [word.strip() for word in (options.task or "").split(",") if word.strip()]
        if not words and not options.weights:
            raise WrongUse("name what to fetch: --task demo, for example (make bench-data TASK=demo)")
        named = [word for word in words if word != REFERENCE]
        tasks = choose_tasks(",".join(named)).tasks if named else ()
        failures = []
        if REFERENCE in words or "demo" in words:
            failures += _tried(lambda: fetch_reference(root, _say, options.wheels))
        if options.weights:
            failures += _tried(lambda: fetch_weights(options.weights, root, _say))
        for task in {_what(task): task for task in tasks}.values():
            failures += _tried(functools.partial(_fetch, task, root, options.debs))
    except WrongUse as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from there", file=sys.stderr)
        return 130
    return FAILED if failures else OK


def _what(task: Task) -> str:
    """The same for tasks that one download serves."""
    shared = task.fetch.get("what") or task.fetch.get("name")
    return str(shared or task.name)


def _tried(what: Callable[[], None]) -> list[str]:
    """Does it; a failure is told and returned, so that the other tasks are still fetched."""
    try:
        what()
    except FetchFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return [str(error)]
    return []


def _fetch(task: Task, root: Path, debs: Path | None) -> None:
    how = dict(task.fetch)
    match how.get("from"):
        case None:
            _say(f"{task.name}: not to be had by a program. {task.get}")
        case "repository":
            _say(f"{task.name}: comes with the repository")
        case "demo":
            _demo(str(how["what"]), root, debs)
        case "hub":
            folder = next(source.path for source in task.sources if source.layout == "webdataset")
            fetch_webdataset(how["name"], how.get("splits", ["test"]), root / folder, _say)
        case "torchvision":
            for source in (*task.sources, *task.support):
                if source.layout == "torchvision":
                    _torchvision(task, source, root)


def _demo(what: str, root: Path, debs: Path | None) -> None:
    if what == "fashion":
        fetch_fashion(root / "torchvision" / "fashion_mnist", _say, debs)
    else:
        fetch_stamps(root / "demo", _say, debs)


def _torchvision(task: Task, source: Source, root: Path) -> None:
    folder = root / source.path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        data = torchvision_set(folder, source.split, source.options, download=True)
    except (OSError, RuntimeError) as error:
        raise FetchFailed(f"{task.name}: torchvision could not fetch it ({error})") from None
    _say(f"{task.name}, {source.split}: {len(data):,} pictures in {folder}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
