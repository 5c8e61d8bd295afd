"""The backend for a Flink cluster, through Beam's FlinkRunner and its job server."""

import contextlib
import json
import logging
import math
import os
import re
import shlex
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions
from apache_beam.runners.portability.flink_runner import (
    MAGIC_HOST_NAMES,
    FlinkJarJobServer,
    FlinkRunner,
)
from apache_beam.runners.portability.job_server import StopOnExitJobServer
from apache_beam.utils.subprocess_server import JavaHelper
from apache_beam.version import __version__ as beam_version

from open_diht.pipelines.runners import portable
from open_diht.pipelines.runners.beam_options import given, option_values
from open_diht.pipelines.runners.job import (
    STOP_SECONDS,
    Job,
    JobFailed,
    RunnerError,
    end_jobs,
    is_of_run,
    job_name,
    to_log,
)

MASTER = "localhost:8081"
"""Address of the cluster that `make flink-up` starts."""
VERSION = "1.20"
"""Default Flink version, if no cluster reports its own."""
JAR_VARIABLE = "FLINK_JOB_SERVER_JAR"
# Not measured: a cluster that runs answers at once.
ASK_SECONDS = 5.0
_JAR = "beam-runners-flink-{flink}-job-server-{beam}.jar"
_OPENED = ("java.lang", "java.util", "java.nio", "sun.nio.ch")
"""Packages that Flink accesses and that Java 17 closes by default. A trivial job ran without them
too."""
_TIED = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Program that runs its arguments in a process that Linux kills when the parent ends."""
_ENDED = ("FINISHED", "FAILED", "CANCELED")
_TRIES = 3
"""Tries to submit a job: on a busy machine another process may take the port that Beam has chosen
for the server."""


class _Runner(portable.EndsItsServer, FlinkRunner):
    """Keeps its job server for later jobs, because a JVM takes 10 to 15 seconds to start."""

    def default_job_server(self, options: PipelineOptions) -> Any:
        kept = self.server
        super().default_job_server(options)
        # The job server of --flink_submit_uber_jar serves one job.
        if isinstance(kept, StopOnExitJobServer):
            self.server = kept
        return self.server


@dataclass(frozen=True)
class Flink(portable.PortableBackend):
    """A `Backend` on a Flink cluster. A job server submits the jobs of a run. Flink does not notice
    that a driver or a job server is gone, and Beam's cancel does not reach it; so jobs that must
    end are cancelled by their names.
    """

    _runner: _Runner = field(default_factory=_Runner, init=False, repr=False, compare=False)
    name = "flink"

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        portable.check_workers(self.workers, self._where())
        if shutil.which(JavaHelper.get_java()) is None:
            raise RunnerError(
                "--runner flink needs Java 11 or 17 for the job server, but there is no `java` in"
                " JAVA_HOME or, if that is unset, on PATH; on Debian and Ubuntu: apt-get install"
                " openjdk-17-jre-headless"
            )
        self._jar(self._version(self._cluster()))

    def default_workers(self) -> int:
        cluster = self._cluster()
        return int(cluster["slots-total"]) if cluster else 1

    def run(self, job: Job) -> None:
        try:
            flags = self._job_flags(job.workers)
        except RunnerError as error:  # the cluster was there when the run began
            raise JobFailed(f"{job.label}: {error}") from error
        with _server_log():
            for left in reversed(range(_TRIES)):
                try:
                    self._try(job, flags)
                    return
                except portable.NotSubmitted as error:
                    cause = error.__cause__
                    if not (
                        left
                        and isinstance(cause, grpc.Call)
                        and cause.code() == grpc.StatusCode.UNAVAILABLE
                    ):
                        raise
                    to_log(f"{error}; trying again with a new job server")

    def _try(self, job: Job, flags: Sequence[str]) -> None:
        """Run a job. If that fails or is interrupted, leave no job behind."""
        name = job_name(job.label, self._home(job.place))
        try:
            portable.run(self._runner, job, [f"--job_name={name}", *flags], self)
        except BaseException:
            self._runner.stop()  # first, so that it cannot submit the job after this
            try:
                self._end(lambda other: other == name, to_log, STOP_SECONDS)
            except RunnerError as error:
                to_log(f"job {name} may still be running: {error}. The same command cancels it")
            raise

    def await_units(self, place: str, say: Callable[[str], None]) -> None:
        self._end(lambda name: is_of_run(name, self._home(place)), say)

    def close(self) -> None:
        self._runner.stop()
        super().close()

    def _home(self, place: str) -> str:
        """Return a name for the run `place` that no other run on the cluster has. If workers are on
        the driver's host, runs of several hosts may work in folders of the same name."""
        loopback = portable.environment_type(self._where()) == "LOOPBACK"
        return f"{socket.gethostname()}:{place}" if loopback else place

    def _end(
        self, ours: Callable[[str], bool], say: Callable[[str], None], seconds: float = math.inf
    ) -> None:
        """Cancel the cluster's jobs whose names are `ours`, see `end_jobs`. A cluster inside the
        job server has none when that has stopped."""
        if self._master() in MAGIC_HOST_NAMES:
            return

        def running() -> dict[str, str]:
            jobs = self._ask("/jobs/overview")["jobs"]
            return {
                job["jid"]: job["name"]
                for job in jobs
                if ours(job["name"]) and job["state"] not in _ENDED
            }

        def end(job: str) -> None:
            try:
                self._ask(f"/jobs/{job}?mode=cancel", "PATCH")
            except RunnerError as error:
                ended = isinstance(
                    error.__cause__, urllib.error.HTTPError
                ) and error.__cause__.code in (404, 409)
                if not ended:
                    raise

        end_jobs(running, end, say, seconds)

    def _job_flags(self, workers: int) -> list[str]:
        """Return the flags of a job for this cluster. The user's flags come last and take
        precedence."""
        cluster = self._cluster()
        version = self._version(cluster)
        jar = self._jar(version)
        # One Python process for each slot that the job may get on a task manager, since a process
        # has one GIL. Flink fills one task manager before it uses the next.
        slots = (
            math.ceil(int(cluster["slots-total"]) / max(1, int(cluster["taskmanagers"])))
            if cluster
            else workers
        )
        return [
            f"--flink_version={version}",
            f"--parallelism={workers}",
            f"--sdk_worker_parallelism={max(1, min(workers, slots))}",
            f"--job_server_java_launcher={self._java()}",
            *(
                f"--job_server_jvm_properties=--add-opens=java.base/{package}=ALL-UNNAMED"
                for package in _OPENED
            ),
            *([f"--flink_job_server_jar={jar}"] if jar else []),
            *self._where(),
        ]

    def _java(self) -> str:
        """Return the program that runs the job server, in place of the `java` on PATH that Beam
        takes. On Linux the server does not outlive this process, which otherwise could not end it
        after SIGKILL."""
        java = JavaHelper.get_java()
        if sys.platform != "linux":
            return java
        path = Path(self.folder.name, "java")
        words = map(shlex.quote, (sys.executable, "-I", "-c", _TIED, java))
        path.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def _where(self) -> list[str]:
        """Return the flags for the cluster's address and the environment type, followed by the
        user's flags."""
        kind = portable.environment_type(self.flags)
        if self._master() in MAGIC_HOST_NAMES and not given(self.flags, "environment_type"):
            kind = "LOOPBACK"  # the job server runs the cluster, on this machine
        loopback = ["--experiments=use_loopback_process_worker"] if kind == "LOOPBACK" else []
        return [
            f"--flink_master={self._master()}",
            f"--environment_type={kind}",
            *loopback,
            *self.flags,
        ]

    def _master(self) -> str:
        named = given(self.flags, "flink_master")
        return str(option_values(self.flags)["flink_master"]).strip() if named else MASTER

    def _cluster(self) -> dict[str, str | int] | None:
        """Return slots, task managers and version, which the cluster's REST service reports.
        Return None if the job server will run the cluster itself. Raise RunnerError if no
        cluster answers."""
        if self._master() in MAGIC_HOST_NAMES:
            return None
        return self._ask("/overview", names=("slots-total", "taskmanagers", "flink-version"))

    def _ask(self, path: str, method: str = "GET", names: Sequence[str] = ()) -> Any:
        """Return the answer of the cluster's REST service, which must have fields with these names.
        Raise RunnerError if no cluster answers."""
        url = f"{FlinkRunner.add_http_scheme(self._master()).rstrip('/')}{path}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, method=method), timeout=ASK_SECONDS
            ) as answer:
                found = json.load(answer)
            return {name: found[name] for name in names} if names else found
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunnerError(
                f"no Flink cluster answers at {url} ({getattr(error, 'reason', error)}); start one"
                " with `make flink-up` in a checkout, or name it: --flink_master=host:port"
            ) from error

    def _version(self, cluster: dict[str, str | int] | None) -> str:
        """Return the Flink version, such as 1.20, which the jar must match. It comes from the
        option, or from the cluster, or is `VERSION`. Raise RunnerError if option and cluster
        differ, or if Beam has no job server for the version."""
        named = (
            str(option_values(self.flags)["flink_version"])
            if given(self.flags, "flink_version")
            else None
        )
        found = ".".join(str(cluster["flink-version"]).split(".")[:2]) if cluster else None
        if named and found and named != found:
            raise RunnerError(
                f"--flink_version={named}, but the cluster at {self._master()} is Flink {found}"
            )
        version = named or found or VERSION
        if version not in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS:
            known = ", ".join(FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS)
            raise RunnerError(
                f"the cluster at {self._master()} is Flink {version}; Beam has job servers for"
                f" {known}"
            )
        return version

    def _jar(self, version: str) -> Path | None:
        """Return the job-server jar that the option or the variable names. If neither does, return
        None: Beam then takes a jar from its cache or downloads it. Raise RunnerError if the
        versions in a jar's name differ, since Beam guarantees no compatibility."""
        named = option_values(self.flags)["flink_job_server_jar"] or os.environ.get(JAR_VARIABLE)
        if not named:
            return None
        path = Path(str(named)).expanduser()
        wanted = jar_name(version)
        if not path.is_file():
            raise RunnerError(
                f"the job-server jar {named} does not exist; set {JAR_VARIABLE} to {wanted}"
            )
        says_which = re.fullmatch(_JAR.format(flink=r"[\d.]+", beam=r"[\d.]+\d"), path.name)
        if says_which and path.name != wanted:
            raise RunnerError(
                f"{path} does not fit this SDK, Beam {beam_version}, and Flink {version}; get"
                f" {wanted}"
            )
        return path.resolve()


@contextlib.contextmanager
def _server_log() -> Iterator[None]:
    """Let the output of the job server, which Beam logs as information, reach the log of the
    workers during a job."""
    log = logging.getLogger(FlinkJarJobServer.__name__)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)


def jar_name(flink_version: str) -> str:
    """Return the file name of the published job-server jar for this SDK and a Flink version."""
    return _JAR.format(flink=flink_version, beam=beam_version)
