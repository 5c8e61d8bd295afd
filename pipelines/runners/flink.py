"""A Flink cluster, through Beam's FlinkRunner and its job server."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import FlinkRunnerOptions
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES, FlinkRunner
from apache_beam.utils.subprocess_server import JavaHelper

from open_diht.pipelines.runners import portable
from open_diht.pipelines.runners.beam_options import given, option_values
from open_diht.pipelines.runners.errors import RunnerError
from open_diht.pipelines.runners.job import Job
from open_diht.pipelines.runners.job_server_jar import find_jar

MASTER = "localhost:8081"
"""Where `make flink-up` has its cluster."""
VERSION = "1.20"
"""Flink line where no cluster says its own."""
ASK_SECONDS = 5.0
_OPENED = ("java.lang", "java.util", "java.nio", "sun.nio.ch")
"""Packages that Flink reaches into and that Java 17 keeps shut (unverified: the jar could not be run here)."""


@dataclass(frozen=True)
class Flink(portable.PortableBackend):
    """See `Backend`."""

    name: str = field(default="flink", init=False)

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        portable.check_workers(self.workers, self._where())
        if shutil.which(JavaHelper.get_java()) is None:
            raise RunnerError(
                "RUNNER=flink needs Java 11 or 17 for the job server, and there is no `java` here; on Debian and "
                "Ubuntu: apt-get install openjdk-17-jre-headless"
            )
        version = self._version(self._cluster())
        self._jar(version)

    def default_workers(self) -> int:
        cluster = self._cluster()
        return int(cluster["slots-total"]) if cluster else 1

    def run(self, job: Job) -> None:
        portable.run(FlinkRunner(), job, self.job_flags(job.workers), self.workers)

    def job_flags(self, workers: int) -> list[str]:
        """All flags of a job but those that say where workers come from; the user's come last, so that they win."""
        cluster = self._cluster()
        version = self._version(cluster)
        jar = self._jar(version)
        managers = max(1, int(cluster["taskmanagers"])) if cluster else 1
        per_manager = -(-workers // managers)  # a Python process for each slot: one would serve all with one GIL
        flags = [
            f"--flink_version={version}",
            f"--parallelism={workers}",
            f"--sdk_worker_parallelism={per_manager}",
            *(f"--job_server_jvm_properties=--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
            *self._where(),
        ]
        if jar is not None and not given(self.flags, "flink_job_server_jar"):
            flags.append(f"--flink_job_server_jar={jar}")
        return flags

    def _where(self) -> list[str]:
        """The user's flags with the cluster's address and the kind of workers settled."""
        settled = []
        if not given(self.flags, "flink_master"):
            settled.append(f"--flink_master={MASTER}")
        kind = portable.environment_type(self.flags)
        if self._master() in MAGIC_HOST_NAMES and not given(self.flags, "environment_type"):
            kind = "LOOPBACK"  # the cluster lives in the job server, on this machine
        settled.append(f"--environment_type={kind}")
        if kind == "LOOPBACK":
            settled.append("--experiments=use_loopback_process_worker")
        return [*settled, *self.flags]

    def _master(self) -> str:
        asked = option_values(self.flags)["flink_master"] if given(self.flags, "flink_master") else MASTER
        return str(asked).strip()

    def _cluster(self) -> dict[str, Any] | None:
        """What the cluster's REST service says of it; None where the cluster is to live in the job server."""
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
                f"no Flink cluster answers at {url} ({getattr(error, 'reason', error)}); start one with `make "
                "flink-up`, or name it: --flink_master=host:port"
            ) from error

    def _version(self, cluster: dict[str, Any] | None) -> str:
        """The cluster's Flink line, which the jar must be of."""
        asked = str(option_values(self.flags)["flink_version"]) if given(self.flags, "flink_version") else None
        found = ".".join(str(cluster["flink-version"]).split(".")[:2]) if cluster else None
        if asked and found and asked != found:
            raise RunnerError(f"--flink_version={asked}, but the cluster at {self._master()} is Flink {found}")
        version = asked or found or VERSION
        if version not in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS:
            known = ", ".join(FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS)
            raise RunnerError(f"the cluster at {self._master()} is Flink {version}; Beam has job servers for {known}")
        return version

    def _jar(self, version: str) -> Path | None:
        values = option_values(self.flags)
        asked, cache = values["flink_job_server_jar"], values["jar_cache_dir"]
        return find_jar(str(asked) if asked else None, version, str(cache) if cache else None)
