"""Drivers of a real Flink cluster that are stopped, and what is left there: no job.

`job_server.py` replaces Beam's jar: its jobs are jobs of Flink (`Sleeper.java`), or run the units
here.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from open_diht.pipelines.runners.flink import JAR_VARIABLE, jar_name

from .conftest import REPOSITORY, clean_environment, killed_at_the_end

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.flink,
    pytest.mark.kill,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(
        shutil.which("javac") is None, reason="no javac, which makes a job for Flink"
    ),
]


@pytest.fixture(scope="session")
def sleeper(
    flink_cluster: str, flink_state: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The jar of `Sleeper.java`, compiled with the jars of the cluster."""
    folder = tmp_path_factory.mktemp("sleeper")
    (libraries,) = flink_state.glob("flink-*/lib")
    words = [
        "javac",
        "-nowarn",
        "-cp",
        f"{libraries}/*",
        "-d",
        str(folder),
        str(HERE / "Sleeper.java"),
    ]
    subprocess.run(words, check=True)
    jar = folder / "sleeper.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "Manifest-Version: 1.0\nMain-Class: Sleeper\n")
        archive.write(folder / "Sleeper.class", "Sleeper.class")
    return jar


@pytest.fixture
def jobs(flink_cluster: str) -> Callable[[], dict[str, str]]:
    """Returns the state of each job of the cluster that this test has begun, by its name."""

    def look() -> dict[str, str]:
        with urllib.request.urlopen(f"http://{flink_cluster}/jobs/overview", timeout=60) as answer:
            return {job["name"]: job["state"] for job in json.load(answer)["jobs"]}

    before = look()
    return lambda: {name: state for name, state in look().items() if name not in before}


@pytest.fixture
def start(flink_cluster: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the driver of a run over two rows in two units, with `job_server.py` as its java."""
    (tmp_path / "temporary").mkdir()
    jar = tmp_path / jar_name("1.20")
    zipfile.ZipFile(jar, "w").close()
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(
        f'#!/bin/sh\nexec {sys.executable} {HERE}/job_server.py "$@"\n', encoding="utf-8"
    )
    java.chmod(0o755)
    rows = (
        "caption\turl\nA brown dog runs\thttp://example.org/1\nA cat sleeps\thttp://example.org/2\n"
    )
    (tmp_path / "rows.tsv").write_text(rows, encoding="utf-8")
    variables = {
        "JAVA_HOME": f"{tmp_path}/jdk",
        JAR_VARIABLE: str(jar),
        "STARTS": f"{tmp_path}/starts",
        "TMPDIR": f"{tmp_path}/temporary",
    }
    words = [
        sys.executable,
        "-m",
        "open_diht.pipelines",
        "--runner=flink",
        f"--flink_master={flink_cluster}",
    ]
    words += [f"--output={tmp_path}/out", "--unit-rows=1"]
    words += ["--stages=captions", "--dataset=custom", f"--input={tmp_path}/rows.tsv"]
    with ExitStack() as stack:

        def run(*more: str, **others: str) -> subprocess.Popen[str]:
            environment = {**clean_environment(), **variables, **others}
            piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            process = subprocess.Popen(
                [*words, *more],
                cwd=REPOSITORY,
                env=environment,
                # nohup would have it ignored.
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
                **piped,
            )
            return stack.enter_context(killed_at_the_end(process))

        yield run


def is_running(process: subprocess.Popen[str], jobs: Callable[[], dict[str, str]]) -> str:
    """Wait until the driver's job runs on the cluster, and return its name."""
    deadline = time.monotonic() + 200
    while "RUNNING" not in (now := jobs()).values():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, now
        time.sleep(0.2)
    (name,) = now
    assert re.fullmatch(r"diht-captions-[0-9a-f]{8}-[0-9a-f]{6}", name)
    return name


def servers(folder: Path) -> list[psutil.Process]:
    """Return the job servers of a test."""
    found = psutil.process_iter(["cmdline"])
    return [
        process
        for process in found
        if f"{HERE}/job_server.py" in (words := process.info["cmdline"] or [])
        and any(word.startswith(f"{folder}/") for word in words)
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_driver_leaves_no_job_and_no_files(start, jobs, sleeper, tmp_path, number):
    process = start(SLEEPER=str(sleeper))
    name = is_running(process, jobs)
    assert list(tmp_path.glob("temporary/diht-run-*/*.whl")), "the staged code"
    process.send_signal(number)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 128 + number, said
    assert jobs() == {name: "CANCELED"}
    assert not list(tmp_path.glob("temporary/diht-*")) and not list(
        tmp_path.glob("temporary/beam-temp*")
    )


def test_a_job_whose_workers_do_not_start_is_cancelled(start, jobs, sleeper):
    process = start("--start-timeout=3", SLEEPER=str(sleeper))
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 1 and "no worker started within 3 seconds" in said, said
    assert list(jobs().values()) == ["CANCELED"]


def test_the_next_run_cancels_the_job_of_a_driver_that_was_killed(
    start, jobs, sleeper, tmp_path, tables_of
):
    killed = start("--environment_type=LOOPBACK", SLEEPER=str(sleeper))
    name = is_running(killed, jobs)
    elsewhere = start("--environment_type=LOOPBACK", f"--output={tmp_path}/elsewhere", SLEEPER="")
    said, _ = elsewhere.communicate(timeout=600)
    assert elsewhere.returncode == 0 and jobs() == {name: "RUNNING"}, "the job of another OUTPUT"
    (server,) = servers(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    psutil.wait_procs([server], timeout=60)
    assert jobs() == {name: "RUNNING"} and not servers(tmp_path)
    again = start("--environment_type=LOOPBACK", SLEEPER="")
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert jobs() == {name: "CANCELED"} and f"cancelling job {name}" in said
    assert tables_of(tmp_path / "out") == tables_of(tmp_path / "elsewhere")


def test_one_job_server_serves_all_stages_and_a_refused_job_is_submitted_again(
    start, jobs, tmp_path
):
    process = start("--environment_type=LOOPBACK", "--stages=captions,dedup", REFUSES="1")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert (tmp_path / "starts").read_text(encoding="utf-8").count("\n") == 2, (
        "one that refuses, and one for all jobs"
    )
    log = (tmp_path / "out" / "work" / "workers.log").read_text(encoding="utf-8")
    assert "Connection refused" in log and "trying again" in log
    stages = re.findall(r"job server: diht-([a-z-]+)-[0-9a-f]{8}-[0-9a-f]{6}", log)
    assert stages[0] == "captions" and "pair-keys" in stages and len(stages) == len(set(stages)) > 3


def test_a_job_that_cannot_be_submitted_is_an_error_of_one_line(start, jobs, tmp_path):
    process = start("--environment_type=LOOPBACK", REFUSES="9")
    said, _ = process.communicate(timeout=600)
    assert (
        process.returncode == 1
        and (tmp_path / "starts").read_text(encoding="utf-8").count("\n") == 3
    )
    last = said.splitlines()[-1]
    assert (
        last.startswith("error: captions: the job could not be submitted: ")
        and "onnection refused" in last
    )
    assert not list(tmp_path.glob("temporary/diht-*")) and not list(
        tmp_path.glob("temporary/beam-temp*")
    )
