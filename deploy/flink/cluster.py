#!/usr/bin/env python3
"""A standalone Flink on this machine, from the two PyPI packages that carry its jars and its scripts.

    python3 -m deploy.flink.cluster up      (what `make flink-up` calls) starts it, or finds it running
    python3 -m deploy.flink.cluster down    (`make flink-down`) stops it
    python3 -m deploy.flink.cluster status

Everything lies in one folder (`--state`, by default .flink): packages, installation, configuration, logs, process ids.
One JobManager and one TaskManager with `--slots` slots; every port binds to the loopback address. Needs Java 11 or 17,
and pip with access to a package registry the first time (232 MB). Standard library only. Exit status 0: done; 2: it
cannot be done, and one line says why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from pathlib import Path

from deploy.processes import ClusterError, LocalCluster, alone, command_line, end

VERSION = "1.20.5"
PACKAGES = {
    "apache-flink-libraries": (
        "apache_flink_libraries-1.20.5.tar.gz",
        "e6aee62ea1a1fe7b32e28894ad079f3f1a50a372a4caac3df52405267f4228c8",
        ["--no-binary", "apache-flink-libraries"],
    ),
    "apache-flink": (
        "apache_flink-1.20.5-cp311-cp311-manylinux_2_5_x86_64.manylinux1_x86_64.manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "6e8ec098a7c06ea34d01fd540e81d44703a90e3bda74052dcbcbb7db5253c10f",
        # Its scripts are the same for every Python and processor; this wheel is simply the one whose hash is known.
        [
            "--only-binary=:all:",
            "--python-version=3.11",
            "--implementation=cp",
            "--abi=cp311",
            "--platform=manylinux2014_x86_64",
        ],
    ),
}
"""By distribution: file, sha256, how pip is told to take that file."""
DAEMONS = {"jobmanager": "standalonesession", "taskmanager": "taskexecutor"}
"""Script, and the service name in its process id file; in the order in which they start."""
START_SECONDS = 90.0


class Cluster(LocalCluster):
    """See `LocalCluster`."""

    name = "Flink"

    def __init__(self, state: Path, port: int, rpc_port: int, slots: int):
        self.state, self.port, self.rpc_port, self.slots = state.resolve(), port, rpc_port, slots
        self.home = self.state / f"flink-{VERSION}"
        self.conf, self.log, self.tmp, self.pids = (self.state / name for name in ("conf", "log", "tmp", "pids"))

    def up(self) -> str:
        """Start what does not run; returns what to say. Raises ClusterError."""
        with alone(self.state):
            running = self.running()
            if running:
                overview = self.overview()
                if overview and len(running) == len(DAEMONS) and int(str(overview["slots-total"])) >= 1:
                    return f"Flink {overview['flink-version']} runs already: {self._describe(overview)}"
                self._stop()
            elif self.overview(timeout=1.0) is not None:
                raise ClusterError(f"port {self.port} is taken by another Flink; choose another with --port")
            java = _java()
            self._install()
            self._configure()
            environment = self._environment(java)
            for script in DAEMONS:
                command = [str(self.home / "bin" / f"{script}.sh"), "start"]
                done = subprocess.run(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                    start_new_session=True,
                )
                if done.returncode:
                    self._stop()
                    raise ClusterError(f"{script} did not start: {(done.stderr or done.stdout).strip()[-500:]}")
            overview = self._await()
            return f"Flink {overview['flink-version']} is up: {self._describe(overview)}"

    def status(self) -> str:
        """Raises ClusterError where it does not run."""
        overview = self.overview()
        if not self.running() or overview is None:
            raise ClusterError(f"no Flink runs from {self.state}; start one with `make flink-up`")
        return f"Flink {overview['flink-version']} is up: {self._describe(overview)}"

    def running(self) -> dict[str, list[int]]:
        """Process ids by daemon, only of processes that are this cluster's: a stale file may name somebody else's."""
        found: dict[str, list[int]] = {}
        for script, service in DAEMONS.items():
            for file in self.pids.glob(f"flink-*-{service}.pid"):
                numbers = [int(word) for word in file.read_text(encoding="ascii").split() if word.isdecimal()]
                if mine := [pid for pid in numbers if str(self.conf) in command_line(pid)]:
                    found[script] = mine
        return found

    def overview(self, timeout: float = 5.0) -> dict[str, object] | None:
        """What the REST service says; None where none answers."""
        try:
            with urllib.request.urlopen(f"http://localhost:{self.port}/overview", timeout=timeout) as answer:
                content = json.load(answer)
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and "slots-total" in content else None

    def _describe(self, overview: dict[str, object]) -> str:
        return f"{overview['slots-total']} slots, http://localhost:{self.port} (logs in {self.log})"

    def _install(self) -> None:
        if (self.home / "installed").is_file():
            return
        downloads, fresh = self.state / "packages", self.state / "installing"
        shutil.rmtree(fresh, ignore_errors=True)
        jars, scripts = (_download(name, downloads) for name in PACKAGES)
        # Real folders: Flink's scripts do not follow symbolic links.
        with tarfile.open(jars) as archive:
            prefix = f"apache_flink_libraries-{VERSION}/deps/"
            for member in archive.getmembers():
                kind = member.name.removeprefix(prefix).split("/", 1)[0]
                if member.isfile() and member.name.startswith(prefix) and kind in ("bin", "lib", "plugins"):
                    _unpack(archive.extractfile(member), fresh / member.name.removeprefix(prefix))
        with zipfile.ZipFile(scripts) as archive:
            for info in archive.infolist():
                name = info.filename.removeprefix("pyflink/")
                if not info.is_dir() and name.split("/", 1)[0] in ("bin", "conf"):
                    with archive.open(info) as content:
                        _unpack(content, fresh / name)
        for script in (fresh / "bin").iterdir():
            script.chmod(0o755)
        (fresh / "installed").write_text(VERSION, encoding="ascii")
        shutil.rmtree(self.home, ignore_errors=True)
        fresh.rename(self.home)

    def _configure(self) -> None:
        for folder in (self.conf, self.log, self.tmp, self.pids):
            folder.mkdir(parents=True, exist_ok=True)
        for file in (self.home / "conf").iterdir():
            shutil.copy(file, self.conf / file.name)
        given = (self.home / "conf" / "config.yaml").read_text(encoding="utf-8")
        opened = re.search(r"^ +all: (--add-.*)$", given, re.MULTILINE)  # what Flink needs to reach into on Java 17
        settings = {
            "env.java.opts.all": f"{opened[1] if opened else ''} -Djava.io.tmpdir={self.tmp}".strip(),
            "env.log.dir": str(self.log),
            "env.pid.dir": str(self.pids),
            "io.tmp.dirs": str(self.tmp),
            "jobmanager.bind-host": "localhost",
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": self.rpc_port,
            "jobmanager.memory.process.size": "1024m",
            "rest.address": "localhost",
            "rest.bind-address": "localhost",
            "rest.port": self.port,
            "rest.bind-port": self.port,
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 3,
            "restart-strategy.fixed-delay.delay": "5 s",
            "taskmanager.bind-host": "localhost",
            "taskmanager.host": "localhost",
            "taskmanager.memory.process.size": "1536m",
            "taskmanager.numberOfTaskSlots": self.slots,
        }
        text = "".join(f"{name}: {value}\n" for name, value in settings.items())
        (self.conf / "config.yaml").write_text(text, encoding="utf-8")

    def _environment(self, java: Path) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FLINK_", "HADOOP_"))}
        return {
            **inherited,
            "JAVA_HOME": str(java.parents[1]),
            "FLINK_CONF_DIR": str(self.conf),
            "FLINK_PID_DIR": str(self.pids),
            "FLINK_LOG_DIR": str(self.log),
            "FLINK_IDENT_STRING": "diht",
        }

    def _await(self) -> dict[str, object]:
        """Wait until the slots are there."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            overview = self.overview(timeout=2.0)
            if overview and int(str(overview["slots-total"])) >= self.slots:
                return overview
            if len(self.running()) < len(DAEMONS):
                break
            time.sleep(0.3)
        why = self._last_error()
        self._stop()
        raise ClusterError(f"Flink did not come up with {self.slots} slots: {why} (logs in {self.log})")

    def _last_error(self) -> str:
        for file in sorted(self.log.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in reversed(lines):
                if "Exception" in line or " ERROR " in line:
                    return line.strip()[:300]
        return "its logs name no error"

    def _stop(self) -> list[str]:
        """End this cluster's processes, the TaskManager first; returns what was ended."""
        found = self.running()
        for script in reversed(DAEMONS):
            for pid in found.get(script, []):
                end(pid)
        for file in self.pids.glob("flink-*.pid"):
            file.unlink(missing_ok=True)
        return [script for script in DAEMONS if script in found]


def _java() -> Path:
    """The java program. Raises ClusterError where there is none that Flink runs on."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    remedy = "install Java 17 (on Debian and Ubuntu: apt-get install openjdk-17-jre-headless), or set JAVA_HOME"
    if not found or not Path(found).is_file():
        raise ClusterError(f"Flink needs Java and there is no {found or '`java` on PATH'}; {remedy}")
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "((\d+)[^"]*)"', said)
    if not version or not 11 <= int(version[2]) <= 21:
        what = version[1] if version else repr(said)
        raise ClusterError(f"Flink {VERSION} needs Java 11 or 17, {found} is {what}; {remedy}")
    return Path(found).resolve()


def _download(name: str, folder: Path) -> Path:
    """The package file of a distribution, with the known sha256. Raises ClusterError."""
    file, sha256, how = PACKAGES[name]
    path = folder / file
    if not path.is_file() or _sha256(path) != sha256:
        folder.mkdir(parents=True, exist_ok=True)
        print(f"Downloading {name} {VERSION} ...", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--dest", str(folder), *how, f"{name}=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode or not path.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ClusterError(f"pip cannot download {name}=={VERSION}: {said[-1] if said else 'it says nothing'}")
        if _sha256(path) != sha256:
            raise ClusterError(f"{path} has sha256 {_sha256(path)}, expected {sha256}; remove it and try again")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _unpack(content, path: Path) -> None:  # type: ignore[no-untyped-def]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        shutil.copyfileobj(content, file)


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="A standalone Flink on this machine.", allow_abbrev=False)
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("--state", type=Path, default=Path(".flink"), help="its folder (.flink)")
    parser.add_argument("--port", type=int, default=8081, help="port of the REST service and web page (8081)")
    parser.add_argument("--rpc-port", type=int, default=6123, help="port of the JobManager (6123)")
    parser.add_argument("--slots", type=int, default=2, help="slots of the TaskManager (2)")
    options = parser.parse_args()
    return Cluster(options.state, options.port, options.rpc_port, options.slots).do(options.command)


if __name__ == "__main__":
    raise SystemExit(main())
