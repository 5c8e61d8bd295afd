"""`make flink-up` and `make flink-down`: a standalone Flink of this machine, up with its slots and
gone again."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.flink import cluster as cluster_script

REPOSITORY = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The script on a state folder of its own; what it started is stopped at the end."""
    state = tmp_path / "state"
    ports = [f"--port={free_port()}", f"--rpc-port={free_port()}"]

    def run(word: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "deploy.flink.cluster",
                word,
                f"--state={state}",
                *ports,
                *arguments,
            ],
            cwd=REPOSITORY,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    run.state, run.port = state, int(ports[0].partition("=")[2])  # type: ignore[attr-defined]
    yield run
    run("down")


def packages(state: Path) -> None:
    """Let a state folder use the packages that `make flink-up` has downloaded into the checkout,
    where it has."""
    there = Path(os.environ.get("FLINK_PACKAGES") or REPOSITORY / ".flink" / "packages")
    if there.is_dir():
        state.mkdir(parents=True)
        (state / "packages").symlink_to(there)


@pytest.mark.flink
@pytest.mark.timeout(600)
def test_a_cluster_comes_up_with_two_slots_and_goes_down(command: Any) -> None:
    packages(command.state)
    up = command("up")
    assert up.returncode == 0, up.stderr
    assert "is up: 2 slots" in up.stdout
    cluster = cluster_script.Cluster(command.state, command.port, 0, 2)
    assert cluster.count() == 2
    running = cluster.running()
    assert sorted(running) == ["jobmanager", "taskmanager"]

    again = command("up")
    assert again.returncode == 0 and "is already running" in again.stdout
    assert cluster.running() == running, "it is the same cluster"
    assert command("status").returncode == 0

    listening = [
        connection.laddr.ip
        for pid in running.values()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening and set(listening) <= {
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
    }, "only this machine is served"

    down = command("down")
    assert down.returncode == 0 and down.stdout.strip() == "stopped jobmanager and taskmanager"
    assert cluster.running() == {} and cluster.count() == 0
    assert "no Flink runs" in command("down").stdout
    assert command("status").returncode == 2


@pytest.mark.flink
@pytest.mark.timeout(600)
def test_half_a_cluster_is_made_whole(command: Any) -> None:
    packages(command.state)
    assert command("up").returncode == 0
    cluster = cluster_script.Cluster(command.state, command.port, 0, 2)
    os.kill(cluster.running()["jobmanager"], 9)
    up = command("up")
    assert up.returncode == 0, up.stderr
    assert sorted(cluster.running()) == ["jobmanager", "taskmanager"]
    assert cluster.count() == 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "needs Java, but there is no"),
        ('openjdk version "1.8.0_392"', "needs Java 11 to 21, .* is 1.8.0_392;"),
        ('openjdk version "25.0.1" 2025-10-21', "needs Java 11 to 21, .* is 25.0.1;"),
    ],
    ids=["none", "too old", "too new"],
)
def test_without_the_right_java_one_line_says_what_to_install(command, tmp_path, said, message):
    java = tmp_path / "jdk" / "bin" / "java"
    if said:
        java.parent.mkdir(parents=True)
        java.write_text(f"#!/bin/sh\necho '{said}' >&2\n", encoding="utf-8")
        java.chmod(0o755)
    up = command("up", JAVA_HOME=str(tmp_path / "jdk"))
    assert up.returncode == 2 and up.stdout == ""
    assert up.stderr.count("\n") == 1 and "apt-get install openjdk-17-jre-headless" in up.stderr
    assert re.search(message, up.stderr), up.stderr
