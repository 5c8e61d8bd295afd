"""What the real parsers make of command lines, of `make` and of `open-diht`, without running the
commands."""

import argparse
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
_QUIET = {"CI": "", "MAKEFLAGS": "", "MFLAGS": "", "MAKELEVEL": "0"}


class _Parsed(BaseException):
    """The command line was understood; what would follow is another test's."""


def understood(
    run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[argparse.Namespace, list[str]]:
    """Return what the first parser that `run` comes to makes of its arguments, and what it
    leaves."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_only(self: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        raise _Parsed(*parse(self, *given, **named))

    with monkeypatch.context() as patched, pytest.raises(_Parsed) as parsed:
        patched.setattr(argparse.ArgumentParser, "parse_known_args", parse_only)
        run()
    options, rest = parsed.value.args
    return options, rest


def of_make(*words: str) -> list[list[str]]:
    """Return the words behind `open-diht` of each of our commands that a line of make runs. `words`
    follow `make`."""
    done = subprocess.run(
        ["make", "-n", *words],
        cwd=REPOSITORY,
        env=os.environ | _QUIET,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Nothing to be done" not in done.stdout, done.stderr
    return [shlex.split(line) for line in re.findall(r"\.venv/bin/open-diht (.*)", done.stdout)]
