"""Words become values, errors one line and a status."""

import argparse
import errno
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from unittest.mock import Mock

import pytest

from open_diht.common.command_line import (
    OK,
    QUIET,
    WRONG_USE,
    Parser,
    WrongUse,
    add_fields,
    command,
    complain,
    exit_status,
    given_fields,
    number,
    say,
    write_numbers,
)
from open_diht.common.fields import Count, Positive, Share


def parser() -> Parser:
    found = Parser(prog="make it", description="Make it.")
    found.add_argument("--output")
    found.add_argument("--count", type=number(Positive))
    found.add_argument("--workers", type=number(Count))
    return found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--ouput=x"],
            r"unrecognized arguments: --ouput=x \(did you mean '--output'\?\) \(see --help\)$",
        ),
        (["--out", "x"], r"unrecognized arguments: --out x"),  # not half a name
        (["--zzz"], r"unrecognized arguments: --zzz \(see --help\)$"),
        (["--count", "0"], r"argument --count: the value is 0; it must be at least 1"),
        (["--workers=-1"], r"argument --workers: the value is -1; it must be at least 0"),
        (
            ["--output", "-1/3"],
            r"expected one argument; a value that begins with - follows a =, as in --output=-1 \(",
        ),
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


@dataclass(frozen=True)
class _Wait:
    at_most: Positive = 7
    """Seconds to wait. 90 % of servers answer sooner."""
    name_sent: str = "me"
    """Name that is sent."""
    quiet: bool = False


def test_options_are_fields_with_their_range_default_and_first_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = parser()
    add_fields(found, _Wait, "at_most", "name_sent", prefix="wait-")
    given = found.parse_args(["--wait-name-sent", "you"])
    assert given_fields(given, _Wait, "wait-") == {"at_most": 7, "name_sent": "you"}
    with pytest.raises(
        WrongUse, match="argument --wait-at-most: the value is 0; it must be at least 1"
    ):
        found.parse_args(["--wait-at-most", "0"])
    with pytest.raises(SystemExit):
        found.parse_args(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "seconds to wait (default: 7)" in said
        and "name that is sent (default: me)" in said
        and "90" not in said
    )


@dataclass(frozen=True)
class _LongWait(_Wait):
    place: Annotated[str, "FOLDER"] | None = None
    """OCR folder (default: a new one)."""
    order: Literal["up", "down"] = "up"
    """The order."""
    loud: bool = False
    """Make noise."""


def test_options_of_every_type_and_of_a_parent_class(capsys: pytest.CaptureFixture[str]) -> None:
    found = parser()
    add_fields(found, _LongWait, "at_most", "place", "order", "loud")
    assert given_fields(found.parse_args([]), _LongWait) == {
        "at_most": 7,
        "place": None,
        "order": "up",
        "loud": False,
    }
    words = ["--loud", "--order", "down", "--place", "here"]
    assert given_fields(found.parse_args(words), _LongWait) == {
        "at_most": 7,
        "place": "here",
        "order": "down",
        "loud": True,
    }
    with pytest.raises(WrongUse, match="invalid choice: 'left'"):
        found.parse_args(["--order", "left"])
    with pytest.raises(SystemExit):
        found.parse_args(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--at-most X seconds to wait (default: 7)" in said
    assert "--place FOLDER OCR folder (default: a new one) --order {up,down} the order" in said
    assert said.endswith("(default: up) --loud make noise")


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
def test_errors_become_a_line_and_a_status(error, status, line, capsys):
    do = Mock(side_effect=error)
    assert (
        exit_status(do, wrong_use=(KeyError,), failed=(_Broken,), stopped="stopped; once more")
        == status
    )
    assert capsys.readouterr().err == line


def test_what_is_done_well_has_its_own_status_and_bugs_pass_and_unexpected_ctrl_c() -> None:
    assert exit_status(lambda: 143) == 143
    with pytest.raises(ZeroDivisionError):
        exit_status(lambda: 1 // 0, failed=(_Broken,))
    with pytest.raises(KeyboardInterrupt):
        exit_status(Mock(side_effect=KeyboardInterrupt), stopped=None)


def test_a_command_ends_quietly_where_nobody_reads_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        with pytest.raises(SystemExit) as ended:
            say("a line")
        assert ended.value.code == 141


def numbers_of(arguments: list[str]) -> int:
    """Run a command that says a line and ends with numbers."""

    def parse(words: list[str]) -> argparse.Namespace:
        parser = Parser("count", "Count.")
        parser.add_script_options("the number of rows")
        return parser.parse_args(words)

    def do(options: argparse.Namespace) -> int:
        say("three rows")
        write_numbers(options, {"rows": 3})
        return OK

    return command(parse, do)(arguments)


def test_numbers_go_alone_to_standard_output_or_to_a_file_and_quiet_hides_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert numbers_of([]) == OK
    assert capsys.readouterr() == ("three rows\n", "")
    assert numbers_of(["--json", "-"]) == OK
    alone = capsys.readouterr()
    assert json.loads(alone.out) == {"rows": 3} and alone.err == "three rows\n"
    assert numbers_of(["--json", str(tmp_path / "numbers.json")]) == OK
    assert capsys.readouterr() == ("three rows\n", "")
    assert json.loads((tmp_path / "numbers.json").read_text()) == {"rows": 3}

    (tmp_path / "file").touch()
    assert numbers_of(["--json", str(tmp_path / "file" / "numbers.json")]) == WRONG_USE
    assert f"--json {tmp_path}/file/numbers.json" in capsys.readouterr().err

    assert numbers_of(["--quiet"]) == OK
    assert capsys.readouterr() == ("", "")
    assert numbers_of(["--quiet", "--json", "-"]) == OK
    quiet = capsys.readouterr()
    assert json.loads(quiet.out) == {"rows": 3} and quiet.err == ""
    assert numbers_of(["--quiet", "--no-such-option"]) == WRONG_USE
    assert "--no-such-option" in capsys.readouterr().err, "errors are said"
    assert QUIET not in os.environ


def test_full_standard_files_are_named_and_end_nothing_else(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert complain("what failed", 2) == 2
        monkeypatch.undo()
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            say("a line")
        monkeypatch.undo()
    assert ended.value.code == 1
    assert (
        "error: standard output cannot be written (No space left on device)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("hint", "word", "said"),
    [
        (Positive, "0", "the value is 0; it must be at least 1"),
        (Positive, "-5", "the value is -5; it must be at least 1"),
        (Positive, "9" * 20, "at most 2147483647"),
        (Positive, "9" * 9_999, "it must be a whole number"),
        (Positive, "1.5", "the value is '1.5'; it must be a whole number"),
        (Positive, "\u00b2", "it must be a whole number"),
        (Share, "nan", "the value is nan; it must be a number"),
        (Share, "inf", "it must be at least 0 and at most 1"),
        (Share, "1e400", "the value is 1e400; it must be at least 0 and at most 1"),
        (Count, "-1_0", "the value is -1_0; it must be at least 0"),
        (Share, " -1\n", "the value is -1; it must be"),
        (Share, "-" + "1" * 300, "it must be at least 0 and at most 1"),
        (Share, "few", "the value is 'few'; it must be a number"),
    ],
)
def test_what_is_no_such_number_is_refused(hint: object, word: str, said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=said) as error:
        number(hint)(word)
    assert len(str(error.value)) < 200


def test_ranks_and_attempts_of_a_torchrun_print_a_wrong_use_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for message in ("a", "b"):
        for attempt in range(4):
            for rank in range(2):
                folder = tmp_path / "run" / f"attempt_{attempt}" / str(rank)
                folder.mkdir(parents=True, exist_ok=True)
                monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
                assert exit_status(Mock(side_effect=WrongUse(message))) == 2
    assert capsys.readouterr().err == "error: a\nerror: b\n"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/error.json")  # a user's own
    assert (
        exit_status(Mock(side_effect=WrongUse("a"))) == 2
        and capsys.readouterr().err == "error: a\n"
    )


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Make room"),
        (errno.EROFS, "Make its file system writable"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_a_disk_that_fails_is_one_line_in_every_command(number, remedy, capsys):
    """Also where nothing but the exit of the command looks: the log of a training, the tables of a
    selection."""

    def fail() -> int:
        raise OSError(number, os.strerror(number), "/data/log.jsonl")

    assert exit_status(fail) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: /data/log.jsonl cannot") and remedy in line

    def miss() -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/data/none")

    with pytest.raises(FileNotFoundError):
        exit_status(miss)
