"""Start a command of this package, and end it on signals: Ctrl-C, SIGTERM and SIGHUP become one
line on standard error and an exit status, unless the command handles them as `make view` does.

Import nothing heavy here: the signal handlers must be active while the rest is imported.
"""

import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "BLIS", "MKL")}
"""Environment of the commands of `run_command` and of workers: worker processes provide the
parallelism, and threads in one process cost more than they gain. NumPy reads these variables when
it is imported."""
SAID = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "ended, as its terminal was closed",
}
"""Signal that ends a command -> the message to the user."""
LOADING = "loading libraries"
"""The first line of a command whose imports take seconds."""
_remedy = ""
_terminal = 2
"""File descriptor for messages to the user."""


class Told(KeyboardInterrupt):
    """A signal has asked the command to end."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def run_command(
    module: str,
    *arguments: Any,
    parser: str | None = None,
    resumes: bool = True,
    workers: bool = True,
    **named: Any,
) -> NoReturn:
    """Run the `main` function of a module as this process's command, and exit with its status.

    First call the module's `before_main`, if it has one, when the module is imported and nothing
    has started. A signal during the imports ends the process at once. A later one raises
    KeyboardInterrupt, so that locks are released and jobs ended; a second signal does not wait for
    that.

    `parser` names a light module. Before `module` is imported, its function `parse` turns the
    arguments of `main` into the keyword `options` of `main`. It ends the process if they are wrong
    or ask for help; otherwise `LOADING` is printed. Without `parser`, `main` parses its arguments
    itself. `resumes` tells the user that the same command resumes after a signal. `workers` says
    that worker processes provide the parallelism: numeric libraries of this process then use one
    thread, see `ONE_THREAD`, and libraries log only errors.
    """
    global _remedy, _terminal
    _remedy = "; run the same command to resume" if resumes else ""
    for variable, value in ONE_THREAD.items() if workers else ():
        os.environ.setdefault(variable, value)  # the user's values take precedence
    _open_standard_files()
    _terminal = os.dup(2)  # while stages run, descriptor 2 is their log
    # In scripts `&` ignores INT.
    asked = [number for number in SAID if signal.getsignal(number) is not signal.SIG_IGN]
    for number in asked:
        signal.signal(number, _end)
    if workers:
        # Before Beam is imported: it warns about unused cloud clients.
        logging.basicConfig(level=logging.ERROR)
    if parser is not None:
        from open_diht.common.command_line import QUIET, parsed_by

        if "options" not in named:
            named["options"] = parsed_by(parser, *arguments, **named)
        if not getattr(named["options"], "quiet", False) and QUIET not in os.environ:
            _write(f"{LOADING}\n")
    command = importlib.import_module(module)
    if hasattr(command, "before_main"):
        command.before_main()

    def tell(number: int, frame: FrameType | None) -> NoReturn:
        for each in asked:
            signal.signal(each, _end)
        raise Told(number)

    try:
        for number in asked:
            signal.signal(number, tell)
        status = command.main(*arguments, **named)
    except Told as told:
        _end(told.number)
    raise SystemExit(status)


@contextlib.contextmanager
def ended_at_once() -> Iterator[None]:
    """Let a signal end the process at once during the `with` block, in which libraries are
    imported. An exception in the middle of an import may be swallowed, and leaves a library half
    imported."""
    is_main = threading.current_thread() is threading.main_thread()  # others cannot set handlers
    before = {number: signal.getsignal(number) for number in SAID if is_main}
    handled = [
        number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)
    ]
    for number in handled:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _open_standard_files() -> None:
    """Open /dev/null for closed standard streams, before other files get their descriptors."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)


def _end(number: int, frame: FrameType | None = None) -> NoReturn:
    _write(f"{SAID[signal.Signals(number)]}{_remedy}\n")
    os._exit(128 + number)  # not sys.exit: it would wait for Beam threads that wait for workers


def _write(line: str) -> None:
    with contextlib.suppress(OSError):  # standard error is full, or the terminal was closed
        os.write(_terminal, line.encode())
