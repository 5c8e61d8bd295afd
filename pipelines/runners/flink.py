"""The backend for a Flink cluster, through Beam's FlinkRunner and its job server."""

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apache_beam.options.pipeline_options import FlinkRunnerOptions
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner
from apache_beam.utils.subprocess_server import JavaHelper
from apache_beam.version import __version__ as beam_version

from open_diht.pipelines.runners import portable
from open_diht.pipelines.runners.beam_options import given, option_values
from open_diht.pipelines.runners.job import Job, JobFailed, RunnerError

MASTER = "localhost:8081"
"""Address of the cluster that `make flink-up` starts."""
VERSION = "1.20"
"""Default Flink version, if no cluster reports its own."""
JAR_VARIABLE = "FLINK_JOB_SERVER_JAR"
ASK_SECONDS = 5.0
_JAR = "beam-runners-flink-{flink}-job-server-{beam}.jar"
_OPENED = ("java.lang", "java.util", "java.nio", "sun.nio.ch")
"""Packages that Flink accesses and that Java 17 closes by default (unverified: the jar could not be run here)."""


class _Runner(portable.EndsItsServer, FlinkRunner):
    pass


@dataclass(frozen=True)
class Flink(portable.PortableBackend):
    """A `Backend` on a Flink cluster."""

    name = "flink"

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        portable.check_workers(self.workers, self._where())
        if shutil.which(JavaHelper.get_java()) is None:
            raise RunnerError(
                "--runner flink needs Java 11 or 17 for the job server, but there is no `java` in JAVA_HOME or, if "
                "that is unset, on PATH; on Debian and Ubuntu: apt-get install openjdk-17-jre-headless"
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
        portable.run(_Runner(), job, flags, self.workers)

    def _job_flags(self, workers: int) -> list[str]:
        """Return the flags of a job for this cluster. The user's flags come last and take precedence."""
        cluster = self._cluster()
        version = self._version(cluster)
        jar = self._jar(version)
        managers = max(1, int(cluster["taskmanagers"])) if cluster else 1
        per_manager = -(-workers // managers)  # one Python process per slot, since a single process has one GIL
        return [
            f"--flink_version={version}",
            f"--parallelism={workers}",
            f"--sdk_worker_parallelism={per_manager}",
            *(f"--job_server_jvm_properties=--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
            *([f"--flink_job_server_jar={jar}"] if jar else []),
            *self._where(),
        ]

    def _where(self) -> list[str]:
        """Return the flags for the cluster's address and the environment type, followed by the user's flags."""
        kind = portable.environment_type(self.flags)
        if self._master() in MAGIC_HOST_NAMES and not given(self.flags, "environment_type"):
            kind = "LOOPBACK"  # the job server runs the cluster, on this machine
        loopback = ["--experiments=use_loopback_process_worker"] if kind == "LOOPBACK" else []
        return [f"--flink_master={self._master()}", f"--environment_type={kind}", *loopback, *self.flags]

    def _master(self) -> str:
        named = given(self.flags, "flink_master")
        return str(option_values(self.flags)["flink_master"]).strip() if named else MASTER

    def _cluster(self) -> dict[str, str | int] | None:
        """Return slots, task managers and version, which the cluster's REST service reports. Return None if the job
        server will run the cluster itself. Raise RunnerError if no cluster answers."""
        master = self._master()
        if master in MAGIC_HOST_NAMES:
            return None
        url = f"{FlinkRunner.add_http_scheme(master).rstrip('/')}/overview"
        try:
            with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
                overview = json.load(answer)
            return {name: overview[name] for name in ("slots-total", "taskmanagers", "flink-version")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunnerError(
                f"no Flink cluster answers at {url} ({getattr(error, 'reason', error)}); start one with "
                "`make flink-up` in a checkout, or name it: --flink_master=host:port"
            ) from error

    def _version(self, cluster: dict[str, str | int] | None) -> str:
        """Return the Flink version, as in 1.20, which the jar must match: the version that the option names, else the
        cluster's, else `VERSION`. Raise RunnerError if option and cluster differ, or if Beam has no job server for the
        version."""
        named = str(option_values(self.flags)["flink_version"]) if given(self.flags, "flink_version") else None
        found = ".".join(str(cluster["flink-version"]).split(".")[:2]) if cluster else None
        if named and found and named != found:
            raise RunnerError(f"--flink_version={named}, but the cluster at {self._master()} is Flink {found}")
        version = named or found or VERSION
        if version not in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS:
            known = ", ".join(FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS)
            raise RunnerError(f"the cluster at {self._master()} is Flink {version}; Beam has job servers for {known}")
        return version

    def _jar(self, version: str) -> Path | None:
        """Return the job-server jar that the option or the variable names. If neither does, return None: Beam then
        takes a jar from its cache or downloads it. Raise RunnerError if the versions in a jar's name differ, since Beam
        guarantees no compatibility."""
        named = option_values(self.flags)["flink_job_server_jar"] or os.environ.get(JAR_VARIABLE)
        if not named:
            return None
        path, wanted = Path(str(named)).expanduser(), jar_name(version)
        if not path.is_file():
            raise RunnerError(f"the job-server jar {named} does not exist; set {JAR_VARIABLE} to {wanted}")
        says_which = re.fullmatch(_JAR.format(flink=r"[\d.]+", beam=r"[\d.]+\d"), path.name)
        if says_which and path.name != wanted:
            raise RunnerError(f"{path} does not fit this SDK, Beam {beam_version}, and Flink {version}; get {wanted}")
        return path.resolve()


def jar_name(flink_version: str) -> str:
    """Return the file name of the published job-server jar for this SDK and a Flink version."""
    return _JAR.format(flink=flink_version, beam=beam_version)
