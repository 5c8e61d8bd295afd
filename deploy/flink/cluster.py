#!/usr/bin/env python3
"""Start and stop a standalone Flink on this machine, from the two PyPI packages with its jars and
its scripts.

    python3 -m deploy.flink.cluster up      (what `make flink-up` calls) starts it, or finds it
    running python3 -m deploy.flink.cluster down    (`make flink-down`) stops it python3 -m
    deploy.flink.cluster status

Its files are in one folder (`--state`, by default .flink): packages, installation, configuration,
logs, process ids. There is one JobManager and one TaskManager with `--slots` slots; every port
binds to the loopback address. The script needs Java 11 to 21 and, the first time, pip with access
to a package registry (232 MB). It uses only the standard library. Exit status 0: success, also if
there is nothing to stop; 2: no cluster could be started, or `status` found none; one line gives the
reason.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from deploy.processes import ClusterError, LocalCluster, options_of

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
        # The scripts are equal in the wheels for every Python and processor; the hash is of this
        # wheel.
        [
            "--only-binary=:all:",
            "--python-version=3.11",
            "--implementation=cp",
            "--abi=cp311",
            "--platform=manylinux2014_x86_64",
        ],
    ),
}
"""File, sha256 and the options that make pip choose that file, by distribution."""


class Cluster(LocalCluster):
    """A local Flink cluster: `port` is that of its REST service, `rpc_port` that of the JobManager,
    and `slots` are those of the TaskManager."""

    name = "Flink"
    sizes = "slots"
    daemons = ("jobmanager", "taskmanager")

    def __init__(self, state: Path, port: int, rpc_port: int, slots: int):
        super().__init__(state, port, slots)
        self._rpc_port = rpc_port
        self._home, self._conf, self._tmp = (
            self.state / name for name in (f"flink-{VERSION}", "conf", "tmp")
        )

    @property
    def address(self) -> str:
        return f"http://localhost:{self.port}"

    def start(self) -> None:
        """Install Flink unless it is installed, and start both daemons. Raises ClusterError."""
        java = _java()
        self._install()
        self._configure()
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FLINK_", "HADOOP_"))
        }
        own = {
            "FLINK_CONF_DIR": str(self._conf),
            "FLINK_PID_DIR": str(self._tmp),
            "FLINK_LOG_DIR": str(self.log),
        }
        for daemon in self.daemons:
            command = [str(self._home / "bin" / f"{daemon}.sh"), "start-foreground"]
            self.spawn(daemon, command, {**inherited, **own, "JAVA_HOME": str(java.parents[1])})

    def count(self) -> int:
        """Return the number of slots that the REST service reports, 0 if it does not answer as
        Flink does."""
        try:
            with urllib.request.urlopen(f"{self.address}/overview", timeout=5.0) as answer:
                return int(json.load(answer)["slots-total"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _install(self) -> None:
        if self._home.is_dir():
            return
        jars, scripts = (_download(name, self.state / "packages") for name in PACKAGES)
        with tempfile.TemporaryDirectory(dir=self.state) as folder:
            fresh = Path(folder)
            with tarfile.open(jars) as archive:
                archive.extractall(fresh, filter="data")
            with zipfile.ZipFile(scripts) as wheel:
                wheel.extractall(
                    fresh, [name for name in wheel.namelist() if name.startswith("pyflink/")]
                )
            home = fresh / f"apache_flink_libraries-{VERSION}" / "deps"
            for part in (
                "bin",
                "conf",
            ):
                # Real folders: Flink's scripts do not follow symbolic links.
                shutil.copytree(fresh / "pyflink" / part, home / part, dirs_exist_ok=True)
            for script in (home / "bin").iterdir():
                script.chmod(0o755)
            home.rename(self._home)  # last, so that an interrupted installation is repeated

    def _configure(self) -> None:
        self._tmp.mkdir(exist_ok=True)
        shutil.copytree(self._home / "conf", self._conf, dirs_exist_ok=True)
        given = (self._home / "conf" / "config.yaml").read_text(encoding="utf-8")
        # Flink needs to reach into these on Java 17.
        opened = re.search(r"^ +all: (--add-.*)$", given, re.MULTILINE)
        settings = {
            "env.java.opts.all": (
                f"{opened[1] if opened else ''} -Djava.io.tmpdir={self._tmp}".strip()
            ),
            "env.log.dir": str(self.log),
            "env.pid.dir": str(self._tmp),
            "io.tmp.dirs": str(self._tmp),
            "jobmanager.bind-host": "localhost",
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": self._rpc_port,
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
            "taskmanager.numberOfTaskSlots": self.size,
        }
        text = "".join(f"{name}: {value}\n" for name, value in settings.items())
        (self._conf / "config.yaml").write_text(text, encoding="utf-8")


def _java() -> Path:
    """Return the path of `java`. Raises ClusterError if there is none, or it is not Java 11 to
    21."""
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    remedy = (
        "install Java 17 (on Debian and Ubuntu: apt-get install openjdk-17-jre-headless), or set"
        " JAVA_HOME"
    )
    if not found or not Path(found).is_file():
        raise ClusterError(
            f"Flink needs Java, but there is no {found or '`java` on PATH'}; {remedy}"
        )
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "((\d+)[^"]*)"', said)
    if not version or not 11 <= int(version[2]) <= 21:
        what = version[1] if version else repr(said)
        raise ClusterError(f"Flink {VERSION} needs Java 11 to 21, {found} is {what}; {remedy}")
    return Path(found).resolve()


def _download(name: str, folder: Path) -> Path:
    """Return the package file of a distribution; pip downloads it once and checks its sha256.
    Raises ClusterError."""
    file, sha256, how = PACKAGES[name]
    if not (folder / file).is_file():
        print(f"Downloading {name} {VERSION} ...", flush=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        command += ["--dest", str(folder), *how, "--requirement", "/dev/stdin"]
        wanted = f"{name}=={VERSION} --hash=sha256:{sha256}"
        done = subprocess.run(command, input=wanted, capture_output=True, text=True, check=False)
        if done.returncode or not (folder / file).is_file():
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ClusterError(
                f"pip cannot download {name}=={VERSION}: {said[-1] if said else 'no output'}"
            )
    return folder / file


def main() -> int:
    """Run the command line and return the exit status."""
    parser = options_of("standalone Flink", ".flink", 8081)
    parser.add_argument("--rpc-port", type=int, default=6123, help="port of the JobManager (6123)")
    parser.add_argument("--slots", type=int, default=2, help="slots of the TaskManager (2)")
    options = parser.parse_args()
    return Cluster(options.state, options.port, options.rpc_port, options.slots).do(options.command)


if __name__ == "__main__":
    raise SystemExit(main())
