"""Command lines: parse arguments into values, and turn expected errors into one line and an exit
status.

Exit status: 0 success; 1 failure; 2 wrong use; 129 ended by SIGHUP; 130 stopped by Ctrl-C; 141 if
the reader of the output has closed it; 143 ended by SIGTERM.
"""

import argparse
import dataclasses
import errno
import hashlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from open_diht.common.fields import BadValue, converted, field_docstrings, shown
from open_diht.common.files import DISK_REMEDIES, publish_json
from open_diht.common.naming import nearest
from open_diht.common.spelling import spelled, spelled_option

OK = 0
FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130
QUIET = "OPEN_DIHT_QUIET"
"""Environment variable that --quiet sets, for the processes that a command starts too: nothing is
printed but errors, and what --json - prints."""
COMPLETING = "_ARGCOMPLETE"
"""Environment variable with which a shell asks for completions, see `argcomplete`."""


class WrongUse(ValueError):
    """The command, a file or a setting is wrong (exit status 2)."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `WrongUse` for errors and accepts no abbreviated options. It
    answers a shell that completes a command line (see `open_diht.cli`)."""

    def __init__(self, prog: str, description: str, epilog: str | None = None):
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def first_group(self, title: str) -> argparse._ArgumentGroup:
        """Return a new group of options that the help shows before all others."""
        group = self.add_argument_group(title)
        self._action_groups.insert(0, self._action_groups.pop())
        return group

    def add_output(self) -> None:
        """Add OUTPUT, the output of a filter run, as an argument that may be left out."""
        self.add_argument(
            "output",
            metavar="OUTPUT",
            nargs="?",
            default="out/sample",
            help=(
                f"output of `{spelled('filter')}`, a folder or an address such as"
                " s3://bucket/folder (default out/sample)"
            ),
        )

    def add_plugins(self, kinds: str = "filters") -> None:
        """Add --plugin, for modules of the user with these kinds of additions."""
        self.add_argument(
            "--plugin",
            action="append",
            default=[],
            metavar="MODULE",
            help=f"a Python module with {kinds} of your own",
        )

    def add_script_options(self, numbers: str | None = None) -> None:
        """Add --quiet and, for a command that ends with `numbers`, --json; see `command` and
        `write_numbers`."""
        self.add_argument(
            "--quiet",
            action="store_true",
            help="print only errors and what --json - prints" if numbers else "print only errors",
        )
        if numbers:
            self.add_argument(
                "--json",
                metavar="FILE",
                help=(
                    f"write {numbers} as JSON; - prints only that on standard output, and other"
                    " lines on standard error"
                ),
            )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments as argparse does, or answer the shell and end the process."""
        if COMPLETING in os.environ and type(self) is Parser:  # argcomplete changes the class
            importlib.import_module("argcomplete").autocomplete(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise `WrongUse`. For an unknown option the message suggests the nearest one, if any is
        close. For a missing value, which may start with -, it suggests `--option=-1`."""
        hint = ""
        if unknown := message.partition("unrecognized arguments: ")[2].split():
            known = [name for action in self._actions for name in action.option_strings]
            hint = nearest(unknown[0].partition("=")[0], known)
        elif message.endswith("expected one argument"):
            # argparse takes a value such as -1/3 for an option.
            option = message.removeprefix("argument ").partition(":")[0].rpartition("/")[2]
            hint = f"; a value that begins with - follows a =, as in {option}=-1"
        raise WrongUse(f"{message}{hint} (see --help)")


class GivenOnce(argparse.Action):
    """An `action=` for argparse that refuses to be given twice. By default argparse silently keeps
    the last value."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Store the value. Raises `WrongUse` if the option was given before."""
        given = f"{self.dest}_is_given"
        if getattr(namespace, given, False):
            first = getattr(namespace, self.dest)
            raise WrongUse(
                f"{spelled_option(self.dest)} is given twice, as {first} and {values}; give it once"
            )
        setattr(namespace, given, True)
        setattr(namespace, self.dest, values)


def number(hint: Any) -> Callable[[str], Any]:
    """Return a function for `type=` of argparse that parses a number of the type `hint`, such as
    `Positive`. Messages show the number as it was typed, such as 1e400."""
    kind = get_args(hint)[0]

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = text
        try:
            return converted(hint, value, "the value")
        except BadValue as error:
            typed = shown(text) if isinstance(value, str) else shown(text.strip())[1:-1]
            must = str(error).rpartition("; ")[2]
            raise argparse.ArgumentTypeError(f"the value is {typed}; {must}") from error

    return parse


def add_fields(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    kind: type[Any],
    *names: str,
    prefix: str = "",
) -> None:
    """Add an option --<prefix><name> for each field of a dataclass, or only for `names`. The option
    has the field's type and default; the help is the first sentence of the field's docstring. A
    field that may be None tells its default there. A text in `Annotated` is the placeholder of the
    value in the help: `Annotated[str, "FOLDER"]`."""
    hints = get_type_hints(kind, include_extras=True)
    said = field_docstrings(kind)
    for field in dataclasses.fields(kind):
        if field.name in (names or hints):
            hint = hints[field.name]
            option = f"--{prefix}{field.name.replace('_', '-')}"
            about = " ".join(said[field.name].split()).partition(". ")[0].removesuffix(".")
            if not about[1:2].isupper():  # an abbreviation, such as OCR
                about = f"{about[0].lower()}{about[1:]}"
            if hint is not bool and field.default is not None:
                about += f" (default: {field.default})"
            if type(None) in get_args(hint):
                hint = get_args(hint)[0]
            how: dict[str, Any] = {"type": hint, "metavar": field.name.upper()}
            if hint is bool:
                how = {"action": "store_true"}
            elif get_origin(hint) is Literal:
                how = {"choices": get_args(hint)}
            elif get_origin(hint) is Annotated:
                marks = (mark for mark in get_args(hint) if isinstance(mark, str))
                how = {"type": number(hint), "metavar": next(marks, "X")}
            parser.add_argument(option, default=field.default, help=about, **how)


def given_fields(options: argparse.Namespace, kind: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of the options that `add_fields` has added."""
    names = {
        field.name: f"{prefix}{field.name}".replace("-", "_") for field in dataclasses.fields(kind)
    }
    return {
        name: getattr(options, option) for name, option in names.items() if hasattr(options, option)
    }


def exit_status(
    do: Callable[[], int],
    *,
    wrong_use: tuple[type[Exception], ...] = (),
    failed: tuple[type[Exception], ...] = (),
    stopped: str | None = "stopped; run the same command to resume",
) -> int:
    """Run `do` and return its exit status. Errors of `wrong_use` (like `WrongUse`, status 2) and
    `failed` (status 1) become at most one line on stderr, and so does a disk that is full or
    fails (status 1); others pass through. Ctrl-C, or another signal in a command of
    `run_command`, prints `stopped` and returns 128 + its number. If `stopped` is None,
    KeyboardInterrupt passes through."""
    mistakes: tuple[type[Exception], ...] = (WrongUse, *wrong_use)
    try:
        return do()
    except mistakes as error:
        return complain(error, WRONG_USE) if _unprinted(str(error)) else WRONG_USE
    except failed as error:
        return complain(error, FAILED)
    except OSError as error:
        remedy = DISK_REMEDIES.get(error.errno or 0)
        # Clients of stores raise EIO without a file for any answer that they do not know.
        if remedy is None or (error.errno == errno.EIO and error.filename is None):
            raise
        what = f"{error.filename or 'a file'} cannot be read or written ({error.strerror})"
        return complain(f"{what}. {remedy}, and run the same command again")
    except KeyboardInterrupt as told:
        if stopped is None:
            raise
        with suppress(OSError):  # standard error is full, or the terminal was closed
            print(f"\n{stopped}", file=sys.stderr, flush=True)
        return 128 + int(getattr(told, "number", signal.SIGINT))


def command(
    parse: Callable[..., argparse.Namespace],
    do: Callable[[argparse.Namespace], int],
    ended: Callable[..., int] = exit_status,
    **ends: Any,
) -> Callable[..., int]:
    """Return the function `main` of a command. `main` takes the arguments of `parse`, by default
    the process's, or the result of `parse` as keyword `options`. `main` returns the exit status
    that `ended(..., **ends)` gives. With --json -, lines go to standard error, and only
    `write_numbers` writes to standard output.
    """

    def main(*arguments: Any, options: argparse.Namespace | None = None, **defaults: str) -> int:
        def parse_and_do() -> int:
            chosen = options or parse(*arguments, **defaults)
            with ExitStack() as until_done:
                if getattr(chosen, "quiet", False) and QUIET not in os.environ:
                    os.environ[QUIET] = "1"
                    until_done.callback(os.environ.pop, QUIET)
                if getattr(chosen, "json", None) == "-":
                    chosen.numbers_to = sys.stdout
                    until_done.enter_context(redirect_stdout(sys.stderr))
                return do(chosen)

        return ended(parse_and_do, **ends)

    return main


def write_numbers(options: argparse.Namespace, numbers: Any) -> None:
    """Write what a command found, as --json asks: to a file, to standard output, or not at all.
    Raises `WrongUse` for a file that cannot be written."""
    if options.json == "-":
        with redirect_stdout(options.numbers_to):
            _print(json.dumps(numbers, indent=1))
    elif options.json is not None:
        try:
            publish_json(Path(options.json), numbers)
        except OSError as error:
            raise WrongUse(
                f"--json {options.json} cannot be written ({error.strerror or error}); name another"
                " file, and run the same command again"
            ) from error


def _unprinted(message: str) -> bool:
    """Return whether a message still has to be printed, and mark it as printed. With
    --max-restarts, torchrun restarts failed ranks whatever their exit status. Without the mark each
    local rank would print the same message at each attempt. Outside of torchrun the answer is
    always True."""
    # The file of this rank is RUN/attempt_N/RANK/error.json, unless the user has set the variable
    # to another path.
    folders = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).absolute().parents
    if (
        "TORCHELASTIC_RUN_ID" not in os.environ
        or len(folders) < 3
        or not folders[1].name.startswith("attempt_")
    ):
        return True
    printed = folders[2] / f"printed-{hashlib.sha256(message.encode()).hexdigest()[:16]}"
    try:
        printed.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def complain(error: Exception | str, status: int = FAILED) -> int:
    """Print one error line to stderr, and return `status`."""
    with suppress(OSError):
        # Standard error is full or closed; the exit status still reports the failure.
        print(f"error: {error}", file=sys.stderr, flush=True)
    return status


def parsed_by(module: str, *arguments: Any, **named: Any) -> argparse.Namespace:
    """Parse a command line with a module's `parse`. End the process if that prints the help, or
    raises `WrongUse`, whose message is printed."""
    found: list[argparse.Namespace] = []

    def parse() -> int:
        found.append(importlib.import_module(module).parse(*arguments, **named))
        return OK

    if status := exit_status(parse, stopped=None):
        raise SystemExit(status)
    return found[0]


def refuse_empty(options: argparse.Namespace, *names: str) -> None:
    """Raise `WrongUse` if one of these options (without dashes) is empty, because "" means the
    current folder."""
    for name in names:
        if getattr(options, name) == "":
            raise WrongUse(
                f"--{name} is empty, perhaps from an unset variable; give it a value, or leave"
                " it out"
            )


def check_folder(called: str, folder: Path) -> None:
    """Raise `WrongUse` if no results may be written into a local folder (the root of the file
    system, the home folder), or if the file system does not accept its name. `called` is its name
    in messages, such as OUTPUT.
    """
    try:
        str(folder).encode()  # raises for names that are not UTF-8
    except UnicodeEncodeError as error:
        raise WrongUse(
            f"{called} {str(folder)!r} is not UTF-8, so records cannot hold the name; choose"
            " another folder"
        ) from error
    try:
        os.lstat(folder / ("x" * 100))  # room for names of results
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise WrongUse(
                f"{called} {folder} cannot be a folder ({error.strerror}); choose another"
            ) from error
    for place, words in (
        ("/", "the root of the file system"),
        (os.path.expanduser("~"), "the home folder"),
    ):
        if os.path.realpath(folder) == os.path.realpath(place):  # also by way of links
            raise WrongUse(
                f"{called} {folder} is {words}; give a folder for the results alone, such as"
                " out/sample"
            )


def say(line: str) -> None:
    """Print a line, unless the command is quiet. See `_print`."""
    if QUIET not in os.environ:
        _print(line)


def _print(line: str) -> None:
    """Print a line and flush it, so that pipes receive it at once. If the reader has closed the
    pipe, as with `| head`, exit with the status of SIGPIPE. After other write errors exit with
    1."""
    try:
        print(line, flush=True)
    except OSError as error:
        # The interpreter flushes again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE) from None
        raise SystemExit(
            complain(f"standard output cannot be written ({error.strerror}); make room there")
        ) from None
