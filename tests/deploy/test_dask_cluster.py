"""`make dask-up` and `make dask-down`: a scheduler and two workers of this machine, up and gone
again."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.dask.cluster import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The script on a state folder of its own; what it started is stopped at the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    state = tmp_path / "state"

    def run(word: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "deploy.dask.cluster",
                word,
                f"--state={state}",
                f"--port={port}",
                *arguments,
            ],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    run.cluster = Cluster(state, port, 2)  # type: ignore[attr-defined]
    yield run
    run("down")


@pytest.mark.cluster
@pytest.mark.kill
def test_a_cluster_comes_up_with_two_workers_replaces_a_dead_one_and_goes_down(
    command: Any,
) -> None:
    distributed = pytest.importorskip(
        "distributed", reason="Dask is not installed: pip install '.[dask]'"
    )
    cluster = command.cluster
    up = command("up")
    assert up.returncode == 0 and f"is up: 2 workers, {cluster.address}" in up.stdout, up.stderr
    running = cluster.running()
    assert sorted(running) == ["scheduler", "worker"]
    again = command("up")
    assert "is already running" in again.stdout and cluster.running() == running, (
        "it is the same cluster"
    )

    processes = [process for pid in running.values() for process in family(pid)]
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}, "only this machine is served"
    with distributed.Client(cluster.address, set_as_default=False) as client:
        assert set(client.nthreads().values()) == {1}
        assert set(client.run(os.getenv, "OMP_NUM_THREADS").values()) == {"1"}
        os.kill(next(iter(client.run(os.getpid).values())), 9)
        client.wait_for_workers(2, timeout=60)
    processes = [process for pid in running.values() for process in family(pid)]

    down = command("down")
    assert down.returncode == 0 and down.stdout.strip() == "stopped scheduler and worker"
    deadline = time.monotonic() + 10
    while left := [process for process in processes if alive(process)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert "no Dask runs" in command("down").stdout
    assert command("status").returncode == 2


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(("cluster", "daemon"), [("dask", "worker"), ("flink", "taskmanager")])
def test_a_process_id_that_belongs_to_somebody_else_is_left_alone(
    cluster: str, daemon: str, tmp_path: Path
) -> None:
    """After a reboot a number in a stale file may be anybody's."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (tmp_path / f"{daemon}.pid").write_text(f"{bystander.pid}\n", encoding="ascii")
        command = [sys.executable, "-m", f"deploy.{cluster}.cluster", "down", f"--state={tmp_path}"]
        down = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False
        )
        assert down.returncode == 0 and f"no {cluster.capitalize()} runs" in down.stdout
        assert bystander.poll() is None, "the bystander lives"
    finally:
        bystander.kill()
        bystander.wait()


def test_a_state_folder_that_cannot_be_written_is_said_in_one_line(
    tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").touch()
    state = tmp_path / "file" / "state"
    assert Cluster(state, 1, 1).do("up") == 2
    assert (
        capsys.readouterr().err
        == f"error: the state folder {state} cannot be written (Not a directory); choose another"
        " with --state\n"
    )


def test_a_port_that_somebody_else_has_is_said_in_one_line(command: Any) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: pip install '.[dask]'")
    with socket.create_server(("127.0.0.1", command.cluster.port)):
        up = command("up")
    assert up.returncode == 2 and up.stdout == ""
    assert (
        up.stderr
        == f"error: port {command.cluster.port} is taken by another process; choose another with"
        " --port\n"
    )
