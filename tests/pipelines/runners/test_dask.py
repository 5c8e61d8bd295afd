"""RUNNER=dask: what is asked of a cluster before anything starts, and a real one of two worker
processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import pytest

from open_diht.common.run_command import LOADING
from open_diht.pipelines.engine.jobs import run_units
from open_diht.pipelines.runners import JobFailed, RunnerError, Workers, make_backend
from open_diht.pipelines.runners.job import WorkerDied
from open_diht.pipelines.runners.once import OncePerProcess

from .conftest import REPOSITORY, clean_environment, killed_at_the_end

pytest.importorskip("distributed", reason="Dask is not installed: pip install '.[dask]'")

import distributed
from distributed import Client
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from open_diht.pipelines.runners import dask
from open_diht.pipelines.verify.command import verify
from open_diht.pipelines.verify.options import parse as verify_options

ELSEWHERE = "tcp://10.0.0.7:40001"


# ---- what is refused, without a cluster
def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "open_diht.pipelines.runners.dask")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(
        RunnerError, match=r"needs Dask \(distributed is missing\): .* install .*\[dask\]"
    ):
        make_backend("dask")


@pytest.mark.parametrize(
    ("name", "arguments", "scheduler", "message"),
    [
        (
            "flink",
            [],
            "tcp://a:1",
            "--dask-scheduler is an option of --runner dask, not of --runner flink",
        ),
        (
            "dask",
            ["--dask-client-address=tcp://a:1"],
            None,
            "is set by this program; use --dask-scheduler",
        ),
        ("dask", ["--dask_npartitions=4"], None, "--dask_npartitions is set by this program"),
        (
            "dask",
            ["--flink_master=a:1"],
            None,
            "--flink_master is an option of --runner flink, not of --runner dask",
        ),
    ],
)
def test_options_that_are_not_the_users_or_of_another_runner_are_refused(
    name, arguments, scheduler, message
):
    with pytest.raises(RunnerError) as refused:
        make_backend(name, arguments, Workers(scheduler=scheduler))
    assert message in str(refused.value)


def address(scheduler: str | None = None) -> str:
    return dask.Dask(workers=Workers(scheduler=scheduler)).address()


def test_the_scheduler_is_the_one_named_else_dasks_own_variable_else_that_of_dask_up(
    monkeypatch, tmp_path
):
    monkeypatch.delenv(dask.VARIABLE, raising=False)
    assert address() == "tcp://127.0.0.1:8786"
    monkeypatch.setenv(dask.VARIABLE, "tls://scheduler:8786")
    assert address() == "tls://scheduler:8786"
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://10.0.0.1:4000"}', encoding="utf-8")
    assert address(str(file)) == "tcp://10.0.0.1:4000"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(RunnerError, match="is not a Dask scheduler's file"):
        address(str(file))
    for wrong in ("scheduler:8786", "tcp://scheduler", "http://scheduler:8786", "/no/such/file"):
        with pytest.raises(
            RunnerError, match="neither an address such as tcp://host:8786 nor the file"
        ):
            address(wrong)


def test_where_no_scheduler_answers_one_line_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dask, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(
        RunnerError,
        match=rf"no Dask scheduler answers at tcp://127\.0\.0\.1:{port} .*`make dask-up`",
    ):
        make_backend("dask", workers=Workers(scheduler=f"tcp://127.0.0.1:{port}")).check([])


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        (b"", r"no Dask process answers within 0\.2 seconds"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it speaks another protocol, as a dashboard does"),
    ],
)
def test_a_port_of_something_else_is_told_from_a_schedulers_and_not_waited_for(
    greeting, why, monkeypatch
):
    monkeypatch.setattr(dask, "CONNECT_SECONDS", 0.2)

    def greet(server: socket.socket) -> None:
        with server.accept()[0] as connection:
            connection.sendall(greeting)
            while connection.recv(4096):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=greet, args=(server,), daemon=True)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(
            RunnerError, match=rf"no Dask scheduler answers at tcp://127\.0\.0\.1:{port} \({why}\)"
        ):
            make_backend("dask", workers=Workers(scheduler=f"tcp://127.0.0.1:{port}")).check([])
        thread.join()


def test_a_scheduler_without_its_certificates_is_refused_in_one_line() -> None:
    with pytest.raises(RunnerError, match=r"TLS expects a `ssl_context`.*; start one with"):
        make_backend("dask", workers=Workers(scheduler="tls://127.0.0.1:8786")).check([])


class Cluster:
    """Of a few workers, which answer as they are told to."""

    def __init__(self, answer: Callable[..., Any], threads: dict[str, int] | None = None):
        self._answer = answer
        self._threads = {ELSEWHERE: 1} if threads is None else threads

    def nthreads(self) -> dict[str, int]:
        return self._threads

    def run(self, function: Callable[..., Any], *arguments: Any, on_error: str) -> dict[str, Any]:
        assert on_error == "return"
        return {worker: self._answer(function, *arguments) for worker in self._threads}


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What `check` says of a cluster; empty where it is content."""

    def check(cluster: Cluster, *places: tuple[str, str]) -> str:
        monkeypatch.setattr(dask.Dask, "_cluster", lambda self: contextlib.nullcontext(cluster))
        try:
            make_backend("dask").check(places)
        except RunnerError as error:
            assert "\n" not in str(error)
            return str(error)
        return ""

    return check


def here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def test_a_cluster_without_workers_or_with_threads_that_would_do_nothing_is_refused(refused):
    assert "has no workers; start some (`dask worker " in refused(Cluster(here, {}))
    assert "has 16 threads; threads cannot share a parser or OCR" in refused(
        Cluster(here, {ELSEWHERE: 16})
    )
    assert refused(Cluster(here)) == ""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            {"apache-beam": "2.76.0"},
            f"worker {ELSEWHERE} has apache-beam 2.76.0, and this machine 2.77.0",
        ),
        ({"Python": "3.10"}, "has Python 3.10, and this machine "),
        ({"open-diht": "0123456789ab"}, "has open-diht 0123456789ab, and this machine "),
        (
            ModuleNotFoundError("No module named 'pipelines'"),
            "cannot import this program (No module named 'pipelines'",
        ),
    ],
    ids=["Beam", "Python", "this code", "without this project"],
)
def test_workers_of_other_versions_are_refused(
    refused: Callable[..., str], answer: Any, message: str
) -> None:
    def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
        return dask.versions() | answer if isinstance(answer, dict) else answer

    assert message in refused(Cluster(elsewhere))


def test_a_worker_that_dies_while_it_is_asked_is_no_wrong_use(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    """Dask replaces it, and reports the broken connection."""

    def dying(function: Callable[..., Any], *arguments: Any) -> Any:
        return CommClosedError("in <TCP> ConnectionPool.run: Stream is closed")

    assert (
        refused(Cluster(dying), ("INPUT", str(tmp_path)), ("OUTPUT", str(tmp_path / "out"))) == ""
    )


def test_places_that_a_worker_does_not_see_are_refused_and_no_trace_is_left(refused, tmp_path):
    def blind(function: Callable[..., Any], *arguments: Any) -> Any:
        return False if function is os.path.exists else function(*arguments)

    manifest = tmp_path / "a.tsv"
    manifest.write_text("caption\n", encoding="utf-8")
    output = ("OUTPUT", f"{tmp_path}/new/out")
    inputs = ("INPUT", f"{tmp_path}/*.tsv")
    assert refused(Cluster(here), output, inputs) == ""
    for place in (output, inputs, ("OUTPUT", str(tmp_path)), ("--images-root", str(tmp_path))):
        said = refused(Cluster(blind), place)
        assert said.startswith(
            f"{place[0]} {place[1]} is not seen by the Dask worker {ELSEWHERE}; give a path on a"
        )
    assert (
        refused(
            Cluster(blind),
            ("OUTPUT", "s3://bucket/out"),
            ("INPUT", "simplecache::gs://bucket/a.tsv"),
        )
        == ""
    )
    assert "is in the memory of this process" in refused(Cluster(here), ("OUTPUT", "memory://out"))
    assert list(tmp_path.iterdir()) == [manifest]


# ---- how a job is watched
def test_the_units_that_workers_are_at_for_a_run_that_was_stopped_are_waited_for(monkeypatch):
    answers: list[bool | OSError] = [True, True, False, OSError("just ending")]
    cluster = Cluster(lambda is_at, place: answers.pop(0))
    monkeypatch.setattr(dask, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(dask.Dask, "_cluster", lambda self: contextlib.nullcontext(cluster))
    said: list[str] = []
    make_backend("dask").await_units("out/work", said.append)
    assert (
        said == ["waiting for 1 Dask worker to finish units of a stopped run"] and len(answers) == 1
    )
    make_backend("dask").await_units("out/work", said.append)
    assert len(said) == 1 and not answers


def result(error: BaseException | None = None, done: bool = True, workers: int = 1) -> Any:
    """A job that has ended, or goes on."""
    at_work = [True, True, False]
    cluster = Cluster(
        lambda let_go: not at_work.pop(0), {str(worker): 1 for worker in range(workers)}
    )
    cluster.at_work = at_work  # type: ignore[attr-defined]
    return SimpleNamespace(
        client=cluster,
        futures=[SimpleNamespace(exception=lambda: error, traceback=lambda: None, done=done)],
    )


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """`distributed.wait` for the jobs of `result`."""

    def wait(futures: list[Any], timeout: float) -> None:
        if not futures[0].done:
            time.sleep(0.01)
            raise TimeoutError

    monkeypatch.setattr(distributed, "wait", wait)


@pytest.mark.usefixtures("waiting")
def test_units_that_workers_die_of_are_the_engines_to_try_again_and_other_errors_end_the_job(
    capsys, monkeypatch
):
    monkeypatch.setattr(dask, "POLL_SECONDS", 0.01)
    dask._watch(result(), "captions", 60.0)
    killed = result(KilledWorker("unit", SimpleNamespace(address="tcp://a:1"), 4))  # type: ignore[arg-type]
    with pytest.raises(
        WorkerDied, match=r"Dask workers died while working \(tcp://a:1 was the last\)"
    ):
        dask._watch(killed, "captions", 60.0)
    assert killed.client.at_work == [], "what is under way has ended by then"
    with pytest.raises(JobFailed, match="captions: the job failed: OSError: no model"):
        dask._watch(result(OSError("no model")), "captions", 60.0)
    assert "OSError: no model" in capsys.readouterr().err, "the log of workers has the trace"


def test_a_scheduler_that_goes_ends_the_job_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(futures: list[Any], timeout: float) -> None:
        raise distributed.CancelledError("1 Future cancelled:\nReasons:\nscheduler-connection-lost")

    monkeypatch.setattr(distributed, "wait", wait)
    with pytest.raises(JobFailed) as failed:
        dask._watch(result(), "captions", 60.0)
    assert str(failed.value) == "captions: the Dask scheduler stopped, or dropped the job"


@pytest.mark.usefixtures("waiting")
def test_a_cluster_that_has_lost_all_workers_is_waited_for_so_long_and_no_longer() -> None:
    with pytest.raises(
        JobFailed, match=r"captions: the Dask cluster has had no worker for 0 seconds"
    ):
        dask._watch(result(done=False, workers=0), "captions", 0.05)


# ---- a real cluster
class Note(beam.DoFn):
    """Leaves a file for each unit, with the process that did it."""

    def __init__(self, folder: Path):
        self._folder = folder

    def process(self, unit: str) -> None:
        time.sleep(0.05)
        with open(self._folder / unit, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")


def cluster_command(word: str, state: Path, port: int) -> None:
    command = [
        sys.executable,
        "-m",
        "deploy.dask.cluster",
        word,
        f"--state={state}",
        f"--port={port}",
    ]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("dask")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    try:
        cluster_command("up", state, port)
        yield f"tcp://127.0.0.1:{port}"
    finally:
        cluster_command("down", state, port)


@pytest.fixture
def start(scheduler: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    with contextlib.ExitStack() as stack:

        def run(*arguments: Any) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "open_diht.pipelines",
                    "--runner=dask",
                    *map(str, arguments),
                ],
                cwd=REPOSITORY,
                env=clean_environment(DASK_SCHEDULER_ADDRESS=scheduler),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            return stack.enter_context(killed_at_the_end(process))

        yield run


def wait_for_commits(process: subprocess.Popen[str], output: Path, stage: str) -> None:
    commits = output / "work" / stage / "commits"
    while len(list(commits.glob("[!.]*.json"))) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.mark.cluster
def test_units_are_spread_over_the_workers_each_once(scheduler: str, tmp_path: Path) -> None:
    backend = make_backend("dask", workers=Workers(scheduler=scheduler))
    backend.check([("OUTPUT", str(tmp_path))])
    assert backend.default_workers() == 2
    units = [f"{n:05d}" for n in range(40)]
    run_units("notes", units, Note(tmp_path), 2, backend=backend, todo=tmp_path)
    notes = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert sorted(notes) == units and {len(lines) for lines in notes.values()} == {1}
    assert len({line for lines in notes.values() for line in lines} - {str(os.getpid())}) == 2


class Slow(Note):
    """Takes as long as a unit that a stopped run leaves under way."""

    def process(self, unit: str) -> None:
        (self._folder / "begun").touch()
        time.sleep(1.0)
        super().process(unit)


@pytest.mark.cluster
def test_what_a_worker_is_at_for_a_run_that_is_gone_has_ended_when_the_next_one_begins(
    scheduler, tmp_path
):
    backend = make_backend("dask", workers=Workers(scheduler=scheduler))
    said: list[str] = []
    with Client(scheduler, set_as_default=False) as client:
        last = client.submit(OncePerProcess(Slow(tmp_path), "out/work").process, "unit", pure=False)
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        last.cancel(force=True)
        backend.await_units("elsewhere/work", said.append)
        assert not said and not (tmp_path / "unit").exists()
        backend.await_units("out/work", said.append)
    assert said and (tmp_path / "unit").exists()


@pytest.mark.cluster
@pytest.mark.kill
def test_a_worker_killed_in_each_of_two_stages_costs_nothing_and_rows_are_as_in_the_local_run(
    scheduler, start, arguments, local, tables_of, tmp_path
):
    output = tmp_path / "out"
    run = start(*arguments, "--output", output)
    with Client(scheduler, set_as_default=False) as client:
        for stage in ("captions", "spotting"):
            wait_for_commits(run, output, stage)
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
            client.wait_for_workers(2, timeout=60)
    said, _ = run.communicate(timeout=200)
    assert run.returncode == 0, said
    assert tables_of(output) == local
    assert not verify(output, verify_options([str(output)])).differences


@pytest.mark.cluster
@pytest.mark.kill
def test_a_killed_driver_is_gone_on_from_by_the_same_command(
    start, arguments, local, tables_of, tmp_path
):
    output = tmp_path / "out"
    run = start(*arguments, "--output", output)
    wait_for_commits(run, output, "spotting")
    run.kill()
    run.wait()
    last = start(*arguments, "--output", output)
    said, _ = last.communicate(timeout=200)
    assert last.returncode == 0, said
    assert "already done" in said
    assert tables_of(output) == local


@pytest.mark.cluster
def test_a_worker_without_this_project_is_refused_by_its_address(
    scheduler, bare_python, start, arguments, tmp_path
):
    command = [
        str(bare_python),
        "-P",
        "-m",
        "distributed.cli.dask_worker",
        scheduler,
        "--host=127.0.0.1",
    ]
    options = ["--nthreads=1", "--no-nanny", "--no-dashboard", f"--local-directory={tmp_path}"]
    worker = subprocess.Popen(
        [*command, *options], cwd="/", env=clean_environment(), stderr=subprocess.DEVNULL, text=True
    )
    with killed_at_the_end(worker), Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(3, timeout=60)
        run = start(*arguments, "--output", tmp_path / "out")
        said, _ = run.communicate(timeout=100)
    loading, error = said.splitlines()
    assert run.returncode == 2 and loading == LOADING
    assert (
        error.startswith("error: the Dask worker tcp://127.0.0.1:")
        and "cannot import this program" in error
    )
    assert "No module named 'open_diht'" in error and not (tmp_path / "out").exists()
