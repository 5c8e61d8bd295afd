"""Errors are one line and a status."""

from __future__ import annotations

import argparse

import pytest

from common.command_line import Parser, WrongUse, did_you_mean, exit_status, natural, positive


def parser() -> Parser:
    found = Parser(prog="make it", description="Make it.")
    found.add_argument("--output")
    found.add_argument("--count", type=positive)
    found.add_argument("--workers", type=natural)
    return found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ouput=x"], r"unrecognized arguments: --ouput=x \(did you mean --output\?\) \(see --help\)$"),
        (["--out", "x"], r"unrecognized arguments: --out x"),  # not half a name
        (["--zzz"], r"unrecognized arguments: --zzz \(see --help\)$"),
        (["--count", "0"], r"argument --count: '0' is not a whole number above 0"),
        (["--workers", "-1"], r"argument --workers: "),
    ],
)
def test_wrong_words_are_wrong_use(words: list[str], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        parser().parse_args(words)


def test_good_words_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    found = parser().parse_args(["--count", "3", "--workers", "0"])
    assert found == argparse.Namespace(output=None, count=3, workers=0)
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["--help"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: make it ")


class _Broken(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (WrongUse("no such thing"), 2, "error: no such thing\n"),
        (KeyError("a key"), 2, "error: 'a key'\n"),
        (_Broken("a file is broken"), 1, "error: a file is broken\n"),
        (KeyboardInterrupt(), 130, "\nstopped; once more\n"),
    ],
)
def test_errors_become_a_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def do() -> int:
        raise error

    assert exit_status(do, wrong_use=(KeyError,), failed=(_Broken,), stopped="stopped; once more") == status
    assert capsys.readouterr().err == line


def test_what_is_done_well_has_its_own_status_and_bugs_pass() -> None:
    assert exit_status(lambda: 143) == 143
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 // 0, failed=(_Broken,))


def test_the_nearest_word() -> None:
    assert did_you_mean("colour", ["color", "size"]) == " (did you mean color?)" and not did_you_mean("x", ["color"])
