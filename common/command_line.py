"""Command lines: words to values, errors that people can mend to one line and an exit status.

Exit status: 0 well; 1 failed; 2 wrong use, nothing was written; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, get_args

from open_diht.common.fields import BadValue, converted
from open_diht.common.naming import nearest

OK, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


class WrongUse(ValueError):
    """The command, a file or a setting is wrong; nothing was written (exit status 2). The message names the remedy."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `WrongUse`, and which takes no option by half its name."""

    def __init__(self, prog: str, description: str, epilog: str | None = None):
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """As `WrongUse`, with the nearest option there is, or how a value that looks like an option is given."""
        hint = ""
        if unknown := message.partition("unrecognized arguments: ")[2].split():
            known = [name for action in self._actions for name in action.option_strings]
            hint = nearest(unknown[0].partition("=")[0], known)
        elif message.endswith("expected one argument"):  # argparse takes a value such as -1/3 for an option
            option = message.removeprefix("argument ").partition(":")[0].rpartition("/")[2]
            hint = f"; a value that begins with - follows a =, as in {option}=-1"
        raise WrongUse(f"{message}{hint} (see --help)")


class Once(argparse.Action):
    """For `action=` of argparse: an option that may be given only once, where the last one would win in silence."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Store the value. Raises `WrongUse` where there is one already."""
        given = f"{self.dest}_is_given"
        if getattr(namespace, given, False):
            first = getattr(namespace, self.dest)
            raise WrongUse(
                f"{option_string} is given twice, as {first} and {values}; give it once. (`make` passes on its "
                f"variable {self.dest.upper()} and ARGS.)"
            )
        setattr(namespace, given, True)
        setattr(namespace, self.dest, values)


def number(hint: Any) -> Callable[[str], Any]:
    """For `type=` of argparse: a word as the number that the hint describes, such as `Positive` or `Share`."""
    kind = get_args(hint)[0]

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = text
        try:
            return converted(hint, value, "the value")
        except BadValue as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse


def exit_status(
    do: Callable[[], int],
    *,
    wrong_use: tuple[type[Exception], ...] = (),
    failed: tuple[type[Exception], ...] = (),
    stopped: str | None = "stopped; the same command goes on from there",
) -> int:
    """What `do` returns; errors that people can mend become one line on stderr and their exit status. `WrongUse` and
    those of `wrong_use` go before those of `failed`; `stopped` is said after Ctrl-C, which passes where it is None.
    Other errors pass."""
    mistakes: tuple[type[Exception], ...] = (WrongUse, *wrong_use)
    try:
        return do()
    except mistakes as error:
        return complain(error, WRONG_USE) if _unprinted(str(error)) else WRONG_USE
    except failed as error:
        return complain(error, FAILED)
    except KeyboardInterrupt:
        if stopped is None:
            raise
        print(f"\n{stopped}", file=sys.stderr)
        return INTERRUPTED


def _unprinted(message: str) -> bool:
    """Return whether neither another rank on this machine nor an earlier attempt of the same torchrun has printed the
    message. Torchrun restarts its ranks whatever their exit status, so each would print it again each time."""
    # Of this rank: RUN/attempt_N/RANK/error.json. A user may have set the variable to another place.
    folders = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", "")).absolute().parents
    if "TORCHELASTIC_RUN_ID" not in os.environ or len(folders) < 3 or not folders[1].name.startswith("attempt_"):
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
    """The one line; returns `status`."""
    with suppress(OSError):  # standard error is full or gone; the status still says it
        print(f"error: {error}", file=sys.stderr, flush=True)
    return status


def refuse_empty(options: argparse.Namespace, *names: str) -> None:
    """Raises `WrongUse` where one of these options is given, and empty: "" would be the current folder."""
    for name in names:
        if getattr(options, name) == "":
            raise WrongUse(f"--{name} is empty, perhaps a variable that is not set; name a place, or leave it out")


def check_folder(called: str, folder: Path) -> None:
    """Refuse a folder that nothing should be written into, or that the system does not take.

    Args:
        called: its name for people, such as OUTPUT.
        folder: on a disk; it need not exist.

    Raises:
        WrongUse: it is the root of the file system, the home folder, no UTF-8, or too long.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise WrongUse(
            f"{called} {str(folder)!r} is not UTF-8, and records name it; give a folder whose name is"
        ) from error
    try:
        os.lstat(folder / ("x" * 100))  # room for names of results
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise WrongUse(f"{called} {folder} cannot be a folder ({error.strerror}); give another one") from error
    for place, words in (("/", "the root of the file system"), (os.path.expanduser("~"), "the home folder")):
        if os.path.realpath(folder) == os.path.realpath(place):
            raise WrongUse(f"{called} {folder} is {words}; give a folder for the results alone, such as out/sample")


def say(line: str) -> None:
    """A line for people; pipes see it at once. Where nobody reads any more, as behind `| head`, the command ends with
    the status of others there."""
    try:
        print(line, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        if isinstance(error, BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE) from None
        raise SystemExit(complain(f"standard output cannot be written ({error.strerror}); make room there")) from None
