"""The command: an address on this machine, an end by Ctrl-C, and wrong use in one line."""

import os
import re
import runpy
import signal
import socket
import sys
import time
import urllib.request

import pytest

from open_diht.common.run_command import LOADING
from open_diht.pipelines.view.cli import main


def command(words: list[str]) -> None:
    """`python -m open_diht.pipelines.view` with these words. Runs in a process of its own."""
    sys.argv[1:] = words
    runpy.run_module("open_diht.pipelines.view", run_name="__main__")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_its_address_answers_and_ends_when_it_is_told_to(number, finished, forks, tmp_path):
    said = tmp_path / "said"
    process = forks.start(__file__, "command", ["--output", str(finished.output)], said=said)
    until = time.monotonic() + 60
    while not said.exists() or not (
        found := re.search(r"(?m)^(http://127\.0\.0\.1:\d+/) shows ", said.read_text())
    ):
        assert forks.poll(process) is None and time.monotonic() < until, said.read_text()
        time.sleep(0.02)
    with urllib.request.urlopen(found[1], timeout=60) as answer:
        assert b"were kept" in answer.read()
    os.kill(process, number)
    assert forks.wait(process) == 0
    assert said.read_text() == f"{LOADING}\n{found[1]} shows {finished.output}; Ctrl-C ends it\n"


def test_an_end_while_the_output_is_opened_names_no_remedy(copied, forks, tmp_path):
    (copied / "run.json").unlink()
    os.mkfifo(copied / "run.json")
    process = forks.start(__file__, "command", ["--output", str(copied)], said=tmp_path / "said")
    with open(copied / "run.json", "w"):  # waits for the reader, and then lets it wait
        os.kill(process, signal.SIGINT)
        assert forks.wait(process) == 130
    assert (tmp_path / "said").read_text() == f"{LOADING}\ninterrupted\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "{tmp}/nowhere"], "is not a folder; name the OUTPUT of a `open-diht filter`"),
        (["--output", "{tmp}"], "holds no output of `open-diht filter`"),
        (["--output", "{out}/run.json"], "is not a folder"),
        (["--output", "nosuch://bucket/x"], "cannot be read"),
        (["--output", "{out}", "--preset", "lenient"], "unknown preset 'lenient'"),
        (["--output", "{out}", "--plugin", "no.such.module"], "--plugin no.such.module"),
        (
            ["--output", "{out}", "--port", "70000"],
            "the value is 70000; it must be at least 0 and at most 65535",
        ),
        (["--output", "{out}", "--prot", "1"], "unrecognized arguments: --prot 1"),
    ],
)
def test_wrong_use_is_one_line(words, said, finished, tmp_path, capsys):
    assert main([word.format(tmp=tmp_path, out=finished.output) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and printed.err.startswith("error: ")
    assert said in printed.err


def test_a_port_that_is_taken_is_one_line(finished, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--output", str(finished.output), "--port", str(port)]) == 2
    assert (
        f"port {port} cannot be used (Address already in use); choose another"
        in capsys.readouterr().err
    )
