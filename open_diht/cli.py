"""The command `open-diht`, which the everyday targets of the Makefile run, wherever the package is installed.

    open-diht filter --dataset laion400m --input '/data/laion400m/*.parquet' --output /data/laion400m-cat

Options and defaults are those of the targets of the same names: `make filter DATASET=sample` is
`open-diht filter --dataset sample`. Exit status: that of the command; 2 where it is unknown or its extra is not
installed.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

OK, WRONG_USE = 0, 2
_OF_A_CHECKOUT = ("study", "study-data")
"""Targets of make whose code is not installed."""
_HELP = {"-h", "--help"}


@dataclass(frozen=True)
class Command:
    """A word that may follow `open-diht`."""

    about: str
    module: str
    """The module that has `main(arguments, prog)`, which takes `defaults` as keywords. Imported only for its command:
    most bring Beam or torch."""
    extras: tuple[str, ...] = ()
    """Extras of the distribution that it needs."""
    defaults: tuple[tuple[str, str], ...] = ()
    """Options that need not be given here, though the module wants them."""
    check: str | None = None
    """A module that refuses wrong arguments before `module` is imported, see `run_command`."""
    resumes: bool = True
    """Whether the same command resumes after a signal."""


COMMANDS = {
    "filter": Command("filter a data set", "open_diht.pipelines.driver.cli", check="open_diht.pipelines.options"),
    "view": Command(
        "show an output on a local web page",
        "open_diht.pipelines.view.cli",
        ("view",),
        (("output", "out/sample"),),
        check="open_diht.pipelines.view.options",
        resumes=False,
    ),
    "pilot": Command(
        "filter a random sample, forecast the whole",
        "open_diht.pipelines.pilot.command",
        check="open_diht.pipelines.pilot.options",
    ),
    "select": Command(
        "choose rows and repeats of a filtered data set, for a number of samples",
        "open_diht.pipelines.select.command",
        check="open_diht.pipelines.select.options",
    ),
    "concepts": Command(
        "make concept targets of filtered data; options after -- are for the heads (-- --help lists them)",
        "open_diht.pipelines.concepts.cli",
        ("train",),
        (("data", "out/sample"),),
        check="open_diht.pipelines.concepts.options",
    ),
    "train": Command(
        "train a model on filtered data",
        "open_diht.trainer.cli",
        ("train",),
        (("data", "out/sample"), ("workdir", "out/train")),
        check="open_diht.trainer.cli",
    ),
    "bench": Command("evaluate a model", "open_diht.eval.__main__", ("eval",), check="open_diht.eval.cli"),
    "bench-data": Command("fetch evaluation data", "open_diht.eval.fetch.__main__", ("eval",)),
    "compare": Command(
        "test two models against each other on the same items",
        "open_diht.eval.compare",
        ("eval",),
        check="open_diht.eval.compare_options",
        resumes=False,
    ),
    "deploy": Command("write the recipes for a cluster", "open_diht.recipes", resumes=False),
    "weights": Command(
        "fetch the OCR weights, before a command needs them", "open_diht.filters.spotting.weights", resumes=False
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in _HELP:
        print(_usage())
        return OK
    if words[0] == "--version":
        print(f"open-diht {version('open-diht')}")
        return OK
    name, *rest = words
    if name in _OF_A_CHECKOUT:
        return _refuse(f"the study is not installed with the package; in a clone of the repository run `make {name}`")
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(COMMANDS)}"
        return _refuse(f"unknown command {name!r}; {meant}")
    command = COMMANDS[name]
    try:
        if name == "concepts":
            return _concepts(command, rest)
        return _run(command.module, rest, f"open-diht {name}", command.check, command.resumes, **dict(command.defaults))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package == "open_diht" or find_spec(package):
            raise  # a fault of ours or of an installed package: no extra would mend it
        remedy = import_module("open_diht.common.installation").remedy(*command.extras)
        return _refuse(f"open-diht {name} needs {package}, which is not installed: {remedy}")


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: open-diht COMMAND [options]",
            "",
            "CAT filters, training and evaluation of image-text models (DiHT, CVPR 2023).",
            "",
            "commands:",
            *lines,
            "",
            "`open-diht COMMAND --help` lists a command's options; `open-diht --version` prints the version.",
        ]
    )


def _run(
    module: str, arguments: Sequence[str], prog: str, check: str | None = None, resumes: bool = True, **defaults: str
) -> int:
    """Run `main` of a module by `run_command`, and return its status."""
    runner = import_module("open_diht.common.run_command")
    handlers = {number: signal.getsignal(number) for number in runner.SAID}
    given = os.environ.keys() & runner.ONE_THREAD.keys()
    workers = module.startswith("open_diht.pipelines.")
    try:
        runner.run_command(module, arguments, prog, check=check, resumes=resumes, workers=workers, **defaults)
    except SystemExit as ended:
        return int(ended.code or OK)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for variable in runner.ONE_THREAD.keys() - given:
            os.environ.pop(variable, None)  # the heads of `concepts`, which follow in this process, use all cores
    raise AssertionError("a command ends with its status")


def _concepts(command: Command, words: Sequence[str]) -> int:
    """Run both halves of `make concepts`: the features of the targets on Beam, then, if they succeed and their job is
    not only staged as a template, the heads on torch."""
    cut = words.index("--") if "--" in words else len(words)
    of_features, of_heads, prog = words[:cut], words[cut + 1 :], "open-diht concepts"
    try:  # before the features, which may take hours
        import_module("open_diht.trainer.head_options").check(
            ["--concepts", "later", *of_heads], "open-diht concepts --"
        )
    except SystemExit as ended:
        return int(ended.code or OK)
    defaults = dict(command.defaults)
    status = _run(command.module, of_features, prog, command.check, command.resumes, **defaults)
    staged = any(word.replace("-", "_").startswith("__template_location") for word in of_features)
    if status != OK or staged or _HELP & {*of_features}:
        return status
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data", default=defaults["data"])
    parser.add_argument("--output")
    parser.add_argument("--shard")
    known, _ = parser.parse_known_args(of_features)
    shard = [f"--shard={known.shard}"] if known.shard else []
    if (torch := sys.modules.get("torch")) and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        torch.set_num_threads(_cores())  # the features' half, which has loaded it, uses one
    of_heads = ["--concepts", known.output or f"{known.data.rstrip('/')}/concepts", *shard, *of_heads]
    return _run("open_diht.trainer.concepts.cli", of_heads, f"{prog} --")


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return WRONG_USE


if __name__ == "__main__":
    sys.exit(main())
