"""Commands that are told to end: one line, an exit status, and no process that stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from open_diht.common.run_command import LOADING, SAID
from tests.pipelines.conftest import write_tsv
from tests.pipelines.processes import REPOSITORY, Forked, ForkedStarter, Starter

pytestmark = pytest.mark.kill
GOES_ON = "run the same command to resume"


@pytest.fixture
def runs(forks, tmp_path: Path) -> Iterator[ForkedStarter]:
    with closing(ForkedStarter(forks, tmp_path)) as made:
        yield made


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        {"url": f"http://example.org/{n}.jpg", "caption": f"A dog runs after {n} balls"}
        for n in range(20_000)
    ]
    return write_tsv(tmp_path / "rows.tsv", rows)


def _start(runs: ForkedStarter, manifest: Path, workers: int) -> tuple[Forked, Path]:
    output = manifest.with_name("out")
    return (
        runs.start(
            manifest, output, "--stages", "captions", "--unit-rows", "20000", workers=workers
        ),
        output,
    )


def _wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


def _is_at_work(output: Path) -> bool:
    return any((output / "work" / "captions" / "progress").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGTERM), (2, signal.SIGINT), (2, signal.SIGHUP)]
)
def test_a_signal_at_work_ends_the_command_and_its_workers(runs, manifest, workers, number):
    """^C and the end of a terminal reach the whole group, SIGTERM mostly the driver alone."""
    process, output = _start(runs, manifest, workers)
    _wait_for(lambda: _is_at_work(output))
    assert len(runs.left()) >= 3, "driver, fork server, workers"
    (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
    said, _ = process.communicate()
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == f"{SAID[number]}; {GOES_ON}" and said.count(GOES_ON) == 1
    assert "Traceback" not in said
    _wait_for(lambda: not runs.left())


@pytest.mark.slow
def test_a_second_signal_is_not_silent_though_the_first_is_not_yet_answered(runs, manifest):
    process, output = _start(runs, manifest, 1)
    _wait_for(lambda: _is_at_work(output))
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        os.kill(process.pid, number)
    said, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1] == f"terminated; {GOES_ON}" and said.count(GOES_ON) == 1
    _wait_for(lambda: not runs.left())


@pytest.mark.parametrize("number", list(SAID))
@pytest.mark.parametrize("command", ["filter", "train"])
def test_a_signal_while_it_starts_is_one_line(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "open_diht", command]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == f"{LOADING}\n"
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    (line,) = said.strip().splitlines()  # of the start, or of the command where that had just begun
    assert process.returncode == 128 + number and GOES_ON in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_nothing_outlives_a_driver_that_is_killed(runs, manifest):
    process, output = _start(runs, manifest, 2)
    _wait_for(lambda: _is_at_work(output))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _wait_for(lambda: not runs.left())


@pytest.mark.slow
def test_what_was_ignored_from_the_beginning_stays_ignored(tmp_path: Path) -> None:
    """As nohup asks for, and shells that start a command in the background."""
    manifest = write_tsv(
        tmp_path / "rows.tsv", [{"url": "http://example.org/a", "caption": "A dog runs"}]
    )
    with closing(Starter(str(tmp_path))) as runs:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process = runs.start(manifest, tmp_path / "out", "--stages", "captions", workers=1)
        finally:
            signal.signal(signal.SIGINT, before)
        _wait_for(lambda: (tmp_path / "out" / "work" / "lock").exists())
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said


def test_standard_files_that_are_closed_are_opened_first() -> None:
    """Else another file gets the number 2, and the log of a stage is written over it."""
    code = (
        "import os, sys; from open_diht.common.run_command import _open_standard_files as opened;"
        " opened(); sys.stderr.write('x'); assert os.path.samestat(os.fstat(2),"
        " os.stat(os.devnull)); assert os.get_inheritable(2); sys.exit(7)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=lambda: os.close(2), cwd=REPOSITORY, check=False
    )
    assert done.returncode == 7
