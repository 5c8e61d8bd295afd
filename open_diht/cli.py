"""The command `open-diht`, which the everyday targets of the Makefile run, wherever the package is
installed.

    open-diht filter --dataset laion400m --input '/data/laion400m/*.parquet' --output
    /data/laion400m-cat

Options and defaults are those of the targets of the same names: `make filter DATASET=sample` is
`open-diht filter --dataset sample`. The exit status is that of the command, or 2 if the command is
unknown or its extra is not installed.
"""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

OK = 0
WRONG_USE = 2
_OF_A_CHECKOUT = ("study", "study-data")
"""Targets of make whose code is not installed."""


@dataclass(frozen=True)
class Command:
    """A word that may follow `open-diht`."""

    about: str
    module: str
    """The module that has `main(arguments, prog)`, which takes `defaults` as keywords. It is
    imported only for its command: most modules import Beam or torch."""
    extras: tuple[str, ...] = ()
    """Extras of the distribution that the command needs."""
    defaults: tuple[tuple[str, str], ...] = ()
    """Options that the module requires and the user need not give, with their values."""
    parser: str | None = None
    """A module that parses the arguments before `module` is imported, see `run_command`."""
    resumes: bool = True
    """Whether the same command resumes after a signal."""


COMMANDS = {
    "filter": Command(
        "filter a data set", "open_diht.pipelines.driver.cli", parser="open_diht.pipelines.options"
    ),
    "view": Command(
        "show an output on a local web page",
        "open_diht.pipelines.view.cli",
        ("view",),
        (("output", "out/sample"),),
        parser="open_diht.pipelines.view.options",
        resumes=False,
    ),
    "rows": Command(
        "print the rows of an output that fit, in an order",
        "open_diht.pipelines.rows.command",
        parser="open_diht.pipelines.rows.options",
        resumes=False,
    ),
    "verify": Command(
        "check an output against its records, its preset and its input",
        "open_diht.pipelines.verify.command",
        parser="open_diht.pipelines.verify.options",
        resumes=False,
    ),
    "pilot": Command(
        "filter a random sample, forecast the whole",
        "open_diht.pipelines.pilot.command",
        parser="open_diht.pipelines.pilot.options",
    ),
    "select": Command(
        "choose rows and repeats of a filtered data set, for a number of samples",
        "open_diht.pipelines.select.command",
        parser="open_diht.pipelines.select.options",
    ),
    "concepts": Command(
        "make concept targets of filtered data",
        "open_diht.pipelines.teachers.cli",
        ("train",),
        (("data", "out/sample"),),
        parser="open_diht.concept_options",
    ),
    "train": Command(
        "train a model on filtered data",
        "open_diht.trainer.cli",
        ("train",),
        (("data", "out/sample"), ("workdir", "out/train")),
        parser="open_diht.trainer.cli",
    ),
    "average": Command(
        "average the weights of two exported models (WiSE-FT)",
        "open_diht.trainer.average",
        ("train",),
        parser="open_diht.trainer.average",
        resumes=False,
    ),
    "bench": Command(
        "evaluate a model", "open_diht.eval.__main__", ("eval",), parser="open_diht.eval.cli"
    ),
    "bench-data": Command("fetch evaluation data", "open_diht.eval.fetch.__main__", ("eval",)),
    "compare": Command(
        "test two models against each other on the same items",
        "open_diht.eval.compare",
        ("eval",),
        parser="open_diht.eval.compare_options",
        resumes=False,
    ),
    "table": Command(
        "put the results of several models into one table",
        "open_diht.eval.table",
        ("eval",),
        parser="open_diht.eval.table_options",
        resumes=False,
    ),
    "check-shards": Command(
        "check shards for errors before a training",
        "open_diht.trainer.data.cli",
        ("train",),
        parser="open_diht.trainer.check_options",
        resumes=False,
    ),
    "publish": Command(
        "publish an exported model on the Hugging Face hub",
        "open_diht.trainer.hub",
        ("train",),
        parser="open_diht.trainer.publish_options",
    ),
    "deploy": Command("write the recipes for a cluster", "open_diht.recipes", resumes=False),
    "weights": Command(
        "fetch the OCR weights, before a command needs them",
        "open_diht.filters.spotting.weights",
        resumes=False,
    ),
    "completion": Command(
        "print what makes a shell complete these commands: bash, zsh, fish",
        "open_diht.completion",
        resumes=False,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "_ARGCOMPLETE" in os.environ:
        words = import_module("open_diht.completion").command_to_complete(list(COMMANDS))
    if not words:
        print(_usage(), file=sys.stderr)
        return WRONG_USE
    if words[0] in ("-h", "--help"):
        print(_usage())
        return OK
    if words[0] == "--version":
        print(f"open-diht {version('open-diht')}")
        return OK
    name, *rest = words
    if name in _OF_A_CHECKOUT:
        return _refuse(
            "the study is not installed with the package; in a clone of the repository run `make"
            f" {name}`"
        )
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(COMMANDS)}"
        return _refuse(f"unknown command {name!r}; {meant}")
    command = COMMANDS[name]
    try:
        if name == "concepts":
            return _concepts(command, rest)
        return _run(command, rest, f"open-diht {name}")
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
            (
                "`open-diht COMMAND --help` lists a command's options; `open-diht --version` prints"
                " the version."
            ),
        ]
    )


def _run(command: Command, words: Sequence[str], prog: str, **parsed: Namespace) -> int:
    """Run a command by `run_command`, and return its status. `parsed` may have its `options`,
    parsed from `words`."""
    runner = import_module("open_diht.common.run_command")
    handlers = {number: signal.getsignal(number) for number in runner.SAID}
    given = os.environ.keys() & runner.ONE_THREAD.keys()
    workers = command.module.startswith("open_diht.pipelines.")
    named = {**dict(command.defaults), **parsed}
    try:
        runner.run_command(
            command.module,
            words,
            prog,
            parser=command.parser,
            resumes=command.resumes,
            workers=workers,
            **named,
        )
    except SystemExit as ended:
        return int(ended.code or OK)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for variable in runner.ONE_THREAD.keys() - given:
            # The heads of `concepts`, which follow in this process, use all cores.
            os.environ.pop(variable, None)
    raise AssertionError("a command ends with its status")


def _concepts(command: Command, words: Sequence[str]) -> int:
    """Run both halves of `make concepts`: the features of the targets on Beam, then the heads on
    torch. Skip the heads if the features fail, if their job is only staged as a template, or if no
    concepts are stored.
    """
    prog = "open-diht concepts"
    parsed_by = import_module("open_diht.common.command_line").parsed_by
    try:
        options = parsed_by(command.parser, words, prog, **dict(command.defaults))
    except SystemExit as ended:
        return int(ended.code or OK)
    status = _run(command, words, prog, options=options)
    staged = any(
        word.replace("-", "_").startswith("__template_location") for word in options.of_beam
    )
    if status != OK or staged or "concepts" not in options.store:
        return status
    if (torch := sys.modules.get("torch")) and not {
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
    } & os.environ.keys():
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        torch.set_num_threads(cores)  # the features' half, which has loaded it, uses one
    return _run(Command("", "open_diht.trainer.concepts.cli"), words, prog, options=options)


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return WRONG_USE


if __name__ == "__main__":
    sys.exit(main())
