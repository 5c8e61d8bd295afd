"""RUNNER=prism for real: what runs in workers, whose python lacks this project, was staged (see
`bare_python`)."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from open_diht.pipelines.engine.engine import Engine
from open_diht.pipelines.engine.stage import TRIES
from open_diht.pipelines.runners import RunnerError, make_backend
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import stamps
from open_diht.pipelines.verify.command import verify
from open_diht.pipelines.verify.options import parse as verify_options
from tests.pipelines.engine.test_engine import UNITS, Fussy

from .conftest import REPOSITORY, clean_environment, killed_at_the_end

MARK = "FILTERS_TEST_PRISM"


def test_without_a_binary_one_line_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRISM", raising=False)
    with pytest.raises(
        RunnerError, match=r"make prism.*go install .*cmd/prism@v2\.77\.0"
    ) as refused:
        make_backend("prism").check([("OUTPUT", "out")])
    assert "\n" not in str(refused.value)
    monkeypatch.setenv("PRISM", str(tmp_path / "nothing"))
    with pytest.raises(RunnerError, match="nothing is missing or not executable"):
        make_backend("prism").check([("OUTPUT", "out")])
    with pytest.raises(RunnerError, match="other is missing or not executable"):
        make_backend("prism", [f"--prism_location={tmp_path}/other"]).check([("OUTPUT", "out")])


@pytest.mark.cluster
def test_what_was_staged_is_enough_and_gives_the_rows_of_the_local_run(
    prism, bare_python, arguments, local, filter_command, tables_of, tmp_path
):
    output = tmp_path / "out"
    how = ["--runner", "prism", "--worker-python", bare_python]
    done = filter_command(*arguments, "--output", output, *how, PRISM=str(prism))
    assert done.returncode == 0, done.stderr
    assert tables_of(output) == local
    assert not verify(output, verify_options([str(output)])).differences
    log = (output / "work" / "workers.log").read_text(encoding="utf-8", errors="replace")
    starts = [line for line in log.splitlines() if "boot: worker" in line]
    assert len(starts) >= 4 and all("diht-" in line and ".whl" in line for line in starts), (
        "each stage was staged to"
    )
    again = filter_command(*arguments, "--output", output, *how, PRISM=str(prism))
    assert again.returncode == 0 and "nothing to do: " in again.stdout


@pytest.mark.cluster
def test_negative_control_a_package_left_out_of_what_is_staged_fails_and_says_which(
    prism, bare_python, arguments, project_copy, filter_command, tmp_path
):
    """Without it nothing shows that the workers have no other copy of the project at hand."""
    setup = project_copy("open_diht.filters.captions")
    how = ["--runner", "prism", "--worker-python", bare_python, "--setup_file", setup]
    done = filter_command(*arguments, "--output", tmp_path / "out", *how, PRISM=str(prism))
    assert done.returncode == 1
    assert "No module named 'open_diht.filters.captions" in done.stderr
    assert (
        "error: captions: the job failed" in done.stderr.splitlines()[-1] or "error:" in done.stderr
    )


@pytest.mark.cluster
def test_a_python_without_beam_is_an_error_and_not_a_hang(
    prism, arguments, filter_command, tmp_path
):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    how = ["--runner", "prism", "--worker-python", python]
    done = filter_command(*arguments, "--output", tmp_path / "out", *how, PRISM=str(prism))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert (
        last.startswith("error: captions: a worker could not be started")
        and "has no Apache Beam" in last
    )


@pytest.mark.cluster
def test_the_reason_of_a_worker_on_another_host_becomes_the_error_of_the_job(
    prism, arguments, filter_command, tmp_path
):
    """As on Flink: the driver's folder is not seen there, and the worker's output goes to
    /dev/null."""
    boot = tmp_path / "boot"
    program = f"exec {sys.executable} -P {REPOSITORY}/pipelines/runners/boot.py"
    # pip then refuses files without a hash
    script = (
        "#!/bin/sh\nunset DIHT_BOOT_FOLDER\nexport PIP_REQUIRE_HASHES=1"
        f' XDG_CACHE_HOME={tmp_path}\n{program} "$@"'
    )
    boot.write_text(f"{script} >/dev/null 2>&1\n", encoding="utf-8")
    boot.chmod(0o755)
    (tmp_path / "temporary").mkdir()
    how = ["--runner", "prism", "--boot-command", boot, "--start-timeout", "200"]
    temporary = {"TMPDIR": f"{tmp_path}/temporary"}
    done = filter_command(
        *arguments, "--output", tmp_path / "out", *how, PRISM=str(prism), **temporary
    )
    (log,) = (tmp_path / "temporary").glob("diht-boot-*.log")
    assert done.returncode == 1, done.stdout
    assert "cannot install open_diht-" in done.stderr and str(log) in done.stderr, done.stderr
    assert "cannot install open_diht-" in log.read_text(encoding="utf-8")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[list[Any], Path], subprocess.Popen[str]]]:
    """Starts the command with a mark in its environment, which all that it starts inherits."""

    with contextlib.ExitStack() as stack:

        def run(arguments: list[Any], prism: Path) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "open_diht.pipelines", *map(str, arguments)],
                cwd=REPOSITORY,
                env=clean_environment(PRISM=str(prism), **{MARK: str(tmp_path)}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            return stack.enter_context(killed_at_the_end(process))

        yield run


def workers_of(mark: str) -> list[int]:
    """Process ids of the Beam workers that carry a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (
                entry / "environ"
            ).read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().split(b"\0")
                if b"apache_beam.runners.worker.sdk_worker_main" in command:
                    found.append(int(entry.name))
    return found


@pytest.mark.cluster
@pytest.mark.kill
def test_a_unit_that_kills_its_worker_is_set_aside_and_the_rest_goes_on(
    prism, tmp_path, monkeypatch
):
    """All units run in threads of one process here, so that the others die with it twice, and none
    fails for that."""
    monkeypatch.setenv("PRISM", str(prism))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # the workers import the stage
    monkeypatch.setattr("open_diht.pipelines.runners.prism.END_SECONDS", 2.0)
    (tmp_path / "deadly").touch()
    layout = Layout(tmp_path)
    said = list[str]()
    engine = Engine(layout, 2, said.append, backend=make_backend("prism"))
    failed = engine.run(Fussy(layout), ["killer", *UNITS], of=7)
    assert set(failed) == {"killer"}, said
    assert [entry["error"] for entry in failed["killer"]["tries"]] == ["WorkerDied"] * TRIES
    assert stamps(layout.commits("fussy"), ".json").keys() == set(UNITS)
    assert any("signal 9" in entry["message"] for entry in failed["killer"]["tries"])


@pytest.mark.cluster
@pytest.mark.kill
@pytest.mark.skipif(sys.platform != "linux", reason="workers are found in /proc")
@pytest.mark.parametrize("stage", ["captions", "spotting"])
def test_a_worker_killed_in_the_middle_costs_nothing_and_the_rows_are_those_of_the_local_run(
    prism, bare_python, arguments, local, tables_of, tmp_path, start, stage
):
    output = tmp_path / "out"
    command = [*arguments, "--output", output, "--runner", "prism", "--worker-python", bare_python]
    first = start(command, prism)
    commits = output / "work" / stage / "commits"
    while len(list(commits.glob("[!.]*.json"))) < 2:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    for worker in workers_of(str(tmp_path)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    said, _ = first.communicate(timeout=400)
    assert first.returncode == 0 and f"{stage}: the job failed" in said, said
    assert not workers_of(str(tmp_path)), "no worker is left running"
    assert tables_of(output) == local
