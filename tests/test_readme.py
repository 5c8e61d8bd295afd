"""What the README and its neighbours tell people to type: it is there, it parses, it runs."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.runners.beam_options import check_beam_options

REPOSITORY = Path(__file__).resolve().parents[1]
TEXTS = ("README.md", "CONTRIBUTING.md", "trainer/README.md", "deploy/README.md")
QUIET = {"CI": "", "MAKEFLAGS": "", "MFLAGS": ""}


def shell_blocks(name: str) -> Iterator[str]:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    yield from re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def typed(*starts: str) -> list[str]:
    """Lines of the texts that begin with these words."""
    lines = (line for name in TEXTS for block in shell_blocks(name) for line in block.splitlines())
    return sorted({line.split("  #")[0].strip() for line in lines if line.startswith(starts)})


class Parsed(BaseException):
    """The command line was understood; what would follow is another test's."""


def understood(module: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the module's own parser leaves of the arguments; the module does nothing else."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_only(self: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        raise Parsed(parse(self, *given, **named)[1])

    with monkeypatch.context() as patched, pytest.raises(Parsed) as parsed:
        patched.setattr(argparse.ArgumentParser, "parse_known_args", parse_only)
        patched.setattr(sys, "argv", [module, *arguments])
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    (rest,) = parsed.value.args
    return list(rest)


def of_make(command: str) -> list[list[str]]:
    """The commands of our modules that a `make` line ends in, as words."""
    words = shlex.split(command)
    done = subprocess.run(
        [words[0], "-n", *words[1:]], cwd=REPOSITORY, env=os.environ | QUIET, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = (re.sub(r"^(set -f; )?", "", line) for line in done.stdout.splitlines())
    return [shlex.split(line) for line in lines if re.match(r"\.venv/bin/python -m (pipelines|trainer|eval)\b", line)]


@pytest.mark.parametrize("command", typed("make "))
def test_make_lines_name_targets_and_variables_that_exist(command: str) -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for word in shlex.split(command)[1:]:
        name, equals, _ = word.partition("=")
        assert re.search(rf"^{re.escape(name)} *\?=" if equals else rf"^{re.escape(name)}:.* ## ", makefile, re.M), word


@pytest.mark.parametrize("command", typed("make "))
def test_make_lines_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, _, module, *arguments in of_make(command):
        rest = understood(module, arguments, monkeypatch)
        if module in ("pipelines", "pipelines.pilot"):
            check_beam_options(rest, "direct")
        else:
            assert not rest


@pytest.mark.parametrize("command", typed("python -m", "torchrun"))
def test_python_lines_are_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, *arguments = shlex.split(command)[shlex.split(command).index("-m") + 1 :]
    assert not understood(module, arguments, monkeypatch)


@pytest.mark.slow
def test_the_python_example_runs(ocr_models: None) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    shown = re.findall(r"^# (.*)$", example, re.MULTILINE)
    assert done.stdout.splitlines()[-len(shown) :] == shown


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    targets = [target.split("#")[0] for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text)]
    missing = [target for target in targets if target and not (REPOSITORY / name).parent.joinpath(target).exists()]
    assert not missing
