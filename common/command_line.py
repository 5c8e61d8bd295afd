"""Command lines: words to options, errors that people can mend to one line and an exit status.

Exit status: 0 well; 1 failed; 2 wrong use, nothing was written; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

OK, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


class WrongUse(ValueError):
    """The command, a file or a setting is wrong; nothing was written (exit status 2)."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `WrongUse`, and which takes no option by half its name."""

    def __init__(self, prog: str, description: str, epilog: str | None = None):
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """As `WrongUse`, with the nearest option there is."""
        unknown = message.partition("unrecognized arguments: ")[2].split()
        known = [name for action in self._actions for name in action.option_strings]
        near = did_you_mean(unknown[0].partition("=")[0], known) if unknown else ""
        raise WrongUse(f"{message}{near} (see --help)")


def exit_status(
    do: Callable[[], int],
    *,
    wrong_use: tuple[type[Exception], ...] = (),
    failed: tuple[type[Exception], ...] = (),
    stopped: str = "stopped; the same command goes on from there",
) -> int:
    """What `do` returns; errors that people can mend become one line on stderr and their exit status. `WrongUse` and
    those of `wrong_use` go before those of `failed`; `stopped` is said after Ctrl-C. Other errors pass."""
    mistakes: tuple[type[Exception], ...] = (WrongUse, *wrong_use)
    try:
        return do()
    except mistakes as error:
        return complain(error, WRONG_USE)
    except failed as error:
        return complain(error, FAILED)
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return INTERRUPTED


def complain(error: Exception | str, status: int = FAILED) -> int:
    """The one line; returns `status`."""
    print(f"error: {error}", file=sys.stderr)
    return status


def say(line: str) -> None:
    """A line for people; pipes see it at once."""
    print(line, flush=True)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean NAME?)`, or nothing where no name is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def positive(text: str) -> int:
    """The `type` of an option that takes a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def natural(text: str) -> int:
    """The `type` of an option that takes a whole number."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
