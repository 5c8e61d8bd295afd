"""How a job on Prism or Flink is watched: one whose workers are gone does not go on for ever."""

import ast
import math
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from setuptools import find_namespace_packages

from open_diht.pipelines.runners import JobFailed, portable
from open_diht.pipelines.runners.flink import Flink
from open_diht.pipelines.runners.job import Job
from open_diht.pipelines.runners.portable import build_wheel, code_digest
from open_diht.pipelines.runners.prism import Prism
from tests.wheel import REPOSITORY

REPORT = "the worker process ended with signal 9"


class Running:
    """A job that a runner does not end by itself."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def wait_until_finish(self) -> None:
        self.end.wait(60.0)


@pytest.fixture
def running() -> Iterator[Running]:
    job = Running()
    yield job
    job.end.set()


def watch(running: Any, folder: Path, *, started: bool, end_seconds: float) -> None:
    job = Job(label="captions", build=lambda pipeline: None, workers=1, started=lambda: started)
    portable._watch(running, job, folder, 60.0, end_seconds)


def test_a_job_whose_worker_has_died_is_ended(running: Running, tmp_path: Path) -> None:
    (tmp_path / "died-1.txt").write_text(REPORT, encoding="utf-8")
    with pytest.raises(
        JobFailed, match=f"captions: the job failed: {REPORT} .*the runner did not end it"
    ):
        watch(running, tmp_path, started=True, end_seconds=0.5)


def test_a_worker_that_dies_before_it_begins_was_not_started(
    running: Running, tmp_path: Path
) -> None:
    (tmp_path / "died-1.txt").write_text(REPORT, encoding="utf-8")
    with pytest.raises(JobFailed, match=f"captions: a worker could not be started: {REPORT}"):
        watch(running, tmp_path, started=False, end_seconds=math.inf)


@pytest.mark.parametrize("end_seconds", [30.0, math.inf])
def test_a_job_that_ends_in_time_is_no_failure(running, tmp_path, end_seconds):
    """Where another worker may be started, it is waited for."""
    (tmp_path / "died-1.txt").write_text(REPORT, encoding="utf-8")
    threading.Timer(0.5, running.end.set).start()
    watch(running, tmp_path, started=True, end_seconds=end_seconds)
    assert running.end.is_set()


class TakesInterrupts:
    """Beam's server that is stopped on ^C, by a handler of its own."""

    stopped = False

    def stop(self) -> None:
        TakesInterrupts.stopped = True


class Submits(portable.EndsItsServer):
    """A runner whose server takes ^C, and no job."""

    def run_pipeline(self, pipeline: Any, options: Any) -> Any:
        self.server = TakesInterrupts()
        signal.signal(signal.SIGINT, lambda number, frame: None)
        raise RuntimeError("Unable to fetch remote job server jar")


def test_the_server_of_a_job_leaves_interrupts_alone_and_ends_with_the_job(
    prism_stand_in, monkeypatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("open_diht.pipelines.runners.prism._Runner", Submits)
    with pytest.raises(
        JobFailed, match="captions: the job could not be submitted: Unable to fetch remote"
    ):
        Prism([f"--prism_location={prism_stand_in}", "--environment_type=LOOPBACK"]).run(
            Job(label="captions", build=lambda pipeline: None, workers=1)
        )
    assert signal.getsignal(signal.SIGINT) is before and TakesInterrupts.stopped


@pytest.fixture
def prism_stand_in(tmp_path: Path) -> Path:
    (tmp_path / "prism").touch(mode=0o755)
    return tmp_path / "prism"


def test_the_staged_wheel_is_made_once_is_the_same_for_each_run_and_goes_with_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(portable, "code_files", lambda: {"__init__.py": Path(portable.__file__)})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    backend = Flink()
    other = Flink()
    assert backend.wheel is backend.wheel and backend.wheel.is_file()
    time.sleep(2.1)  # archives have dates of two seconds
    assert backend.wheel.read_bytes() == other.wheel.read_bytes(), (
        "workers recognize an installed wheel by its hash"
    )
    backend.close()
    other.close()
    assert list(tmp_path.iterdir()) == []
    assert backend.wheel.is_file(), "of the next run"
    backend.close()


# ---- what is staged to workers is all of the code that they run
@pytest.mark.slow
def test_the_wheel_installs_every_package_that_workers_run(
    tmp_path: Path, tmp_path_factory: Any
) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(tmp_path),
    ]
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    subprocess.run([*command, "--disable-pip-version-check", str(wheel)], check=True)
    tops = ["open_diht.common*", "open_diht.filters*", "open_diht.pipelines*"]
    packages = find_namespace_packages(str(REPOSITORY), include=tops, exclude=["*__pycache__*"])
    assert "open_diht.pipelines.runners" in packages
    assert set(packages) == set(
        find_namespace_packages(str(tmp_path), include=tops, exclude=["*__pycache__*"])
    )
    # A worker that has it is told to be of the driver's version.
    code = "from open_diht.pipelines.runners.portable import code_digest; print(code_digest())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == code_digest()


def test_what_workers_import_at_once_travels_to_them():
    """An import within a function may name another folder: what only the driver calls."""
    files = portable.code_files()
    tops = {name.partition("/")[0] for name in files}
    for name, path in files.items():
        if name.endswith(".py"):
            for statement in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(statement, ast.ImportFrom):
                    package, _, module = (statement.module or "").partition(".")
                    top = module.partition(".")[0]
                    assert package != "open_diht" or not top or top in tops, f"{name}: {module}"


def test_a_change_of_the_package_itself_is_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged = code_digest()  # before the change below, since the digest is kept for the process
    (tmp_path / "__init__.py").write_text("changed = True\n")
    monkeypatch.setattr(
        portable, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    assert code_digest.__wrapped__() != unchanged
