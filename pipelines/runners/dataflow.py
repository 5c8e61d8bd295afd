"""The backend for Google Cloud Dataflow. Every stage is a job of its own; the driver reads the
commit records between jobs."""

import math
import re
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from open_diht.common.installation import remedy
from open_diht.pipelines.runners.beam_options import given, option_values
from open_diht.pipelines.runners.beam_private import dataflow_jobs
from open_diht.pipelines.runners.job import (
    QUIET,
    STOP_SECONDS,
    Backend,
    Job,
    JobFailed,
    RunnerError,
    Staged,
    end_jobs,
    is_of_run,
    job_error,
    job_name,
    to_log,
)
from open_diht.pipelines.store.storage import on_this_machine

WORKERS = 32
"""Units at a time that a plan assumes if no number of workers is given."""
MACHINE = "n2-standard-4"
"""Default machine type, with 4 GB per vCPU. Each vCPU runs a process of 0.4 GB and its OCR process
of up to 0.5 GB."""
_TIGHT = re.compile(
    r"(n1|n2|n2d|e2)-highcpu-\d+|e2-(custom-)?(micro|small|medium)(-\d+)?|f1-micro|g1-small"
)
"""Machine types with 1 GB or less per vCPU, or that share a vCPU; for custom types see
`_is_tight`."""
_CUSTOM = re.compile(r"(?:[a-z0-9]+-)?custom-(\d+)-(\d+)(?:-ext)?")
"""Custom machine types: number of vCPUs and MB of memory."""
_ONE_PROCESS = "no_use_multiple_sdk_containers"
"""Experiment: one process per machine instead of one per vCPU."""
_PRIME = "enable_prime"
"""Service option: Dataflow chooses machines by the resource hints of stages, and no machine type
may be given."""
# Jobs take minutes, so that more frequent requests would only use up the project's quota.
POLL_SECONDS = 5.0
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Dataflow(Backend):
    """A `Backend` on Dataflow. Beam's options configure it: project, region, temp_location,
    sdk_container_image, ..."""

    flags: Sequence[str] = ()
    name = "dataflow"
    takes_hints = True

    @property
    def detached(self) -> bool:
        """True if template_location is set: jobs are then written as templates, to be started
        later."""
        return given(self.flags, "template_location")

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        try:
            from apache_beam.runners.dataflow.internal import apiclient  # noqa: F401
        except ImportError as error:
            raise RunnerError(
                f"--runner dataflow needs Beam's Google Cloud part ({error.name or error} is"
                f" missing): {remedy('cloud')}"
            ) from error
        values = option_values(self.flags)
        for name in ("project", "region", "temp_location"):
            if not values[name]:
                raise RunnerError(
                    f"--runner dataflow needs --{name}; see deploy/dataflow/README.md"
                )
        if not (values["sdk_container_image"] or values["setup_file"] or values["extra_packages"]):
            raise RunnerError(
                "--runner dataflow needs --sdk_container_image, an image with Beam, the filters and"
                " their models (see deploy/dataflow/), because workers download nothing"
            )
        machine = str(values["machine_type"])
        experiments = values["experiments"] or ()
        if _is_tight(machine) and _ONE_PROCESS not in experiments:  # type: ignore[operator]
            raise RunnerError(
                f"--worker_machine_type {machine} has 1 GB or less for each process, or shares a"
                " vCPU, and a process that reads images takes up to 0.9 GB; take a standard type"
                f" such as n2-standard-16, or --experiments={_ONE_PROCESS}"
            )
        if self._offline(values):
            return
        locations = [
            (f"--{name}", str(values[name]))
            for name in ("temp_location", "staging_location")
            if values[name]
        ]
        for what, place in (*places, *locations):
            if on_this_machine(place):
                raise RunnerError(
                    f"{what} {place} is on this machine; --runner dataflow needs object storage,"
                    " gs://..., since its workers are on other machines"
                )

    def _offline(self, values: dict[str, object]) -> bool:
        """Return whether jobs are only staged as templates and the Dataflow service is on this
        machine. Local folders are then allowed, so that tests can inspect staged jobs without a
        cloud."""
        host = urllib.parse.urlsplit(str(values["dataflow_endpoint"])).hostname
        return bool(values["template_location"]) and host in _LOCAL_HOSTS

    def default_workers(self) -> int:
        values = option_values(self.flags)
        return int(str(values["max_num_workers"] or values["num_workers"] or WORKERS))

    def run(self, job: Job) -> None:
        from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

        flags = [*QUIET, *self.job_flags(job.label, job.place)]
        values = option_values(flags)
        template = values["template_location"]
        if self._offline(values):
            for folder in (
                values["temp_location"],
                values["staging_location"],
                Path(str(template)).parent,
            ):
                # Otherwise Beam retries for minutes.
                Path(str(folder)).mkdir(parents=True, exist_ok=True)
        pipeline = beam.Pipeline(runner=DataflowRunner(), options=PipelineOptions(flags))
        job.build(pipeline)
        result = None
        try:
            result = _submitted(pipeline, job.label)
            if template:
                raise Staged(
                    f"stage {job.label} is staged as template {template}; nothing was started"
                )
            try:
                result.wait_until_finish()
            except Exception as error:
                # Beam's error of a failed or cancelled job is no RuntimeError.
                raise job_error(f"{job.label}: the Dataflow job failed", error) from error
        except BaseException:
            if result is not None and not template:
                self._stop(lambda number, _: number == result.job_id())
            elif not template and not given(self.flags, "job_name"):
                # The user's name may belong to the job of another run.
                self._stop(lambda _, name: name == values["job_name"])
            raise

    def await_units(self, place: str, say: Callable[[str], None]) -> None:
        if not self.detached:
            self._end(lambda _, name: is_of_run(name, place), say)

    def _stop(self, ours: Callable[[str, str], bool]) -> None:
        """Cancel a job at the end of a stopped driver, and report it if that fails."""
        try:
            self._end(ours, to_log, STOP_SECONDS)
        except RunnerError as error:
            to_log(
                f"{error}. The job may still be running; run the same command to cancel it and"
                " resume"
            )

    def _end(
        self,
        ours: Callable[[str, str], bool],
        say: Callable[[str], None],
        seconds: float = math.inf,
    ) -> None:
        """Cancel the active jobs whose ids and names are `ours`, see `end_jobs`."""
        from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient
        from google.cloud.dataflow import ListJobsRequest  # type: ignore[import-untyped]

        values = option_values(self.flags)
        active = ListJobsRequest.Filter.ACTIVE
        request = ListJobsRequest(
            project_id=values["project"], location=values["region"], filter=active
        )
        try:
            client = DataflowApplicationClient(PipelineOptions(list(self.flags)))

            def running() -> dict[str, str]:
                return {
                    job.id: job.name
                    for job in dataflow_jobs(client, request)
                    if ours(job.id, job.name)
                }

            def end(job: str) -> None:
                try:
                    client.modify_job_state(job, "JOB_STATE_CANCELLED")
                except Exception:
                    if job in running():  # otherwise it has just ended
                        raise

            end_jobs(running, end, say, seconds, POLL_SECONDS)
        except RunnerError:
            raise
        except Exception as error:
            # Clients raise many kinds: no credentials, no permission, no network.
            raise RunnerError(
                f"jobs of project {values['project']} in {values['region']} cannot be listed or"
                f" cancelled ({str(error).strip()[-2_000:]}); the driver needs the role"
                " roles/dataflow.developer"
            ) from error

    def job_flags(self, label: str, place: str = "") -> list[str]:
        """Return the flags of a stage's job in the run `place`, except `QUIET`; the user's flags
        come last and take precedence."""
        flags = ["--no_save_main_session", "--number_of_worker_harness_threads=1"]
        values = option_values(self.flags)
        if not values["machine_type"] and _PRIME not in (values["dataflow_service_options"] or ()):  # type: ignore[operator]
            flags.append(f"--worker_machine_type={MACHINE}")
        if not given(self.flags, "staging_location"):
            flags.append(f"--staging_location={str(values['temp_location']).rstrip('/')}/staging")
        if not given(self.flags, "job_name"):
            flags.append(f"--job_name={job_name(label, place)}")
        return [*flags, *self.flags]


def _submitted(pipeline: beam.Pipeline, label: str) -> Any:
    """Submit a job and return Beam's DataflowPipelineResult. Raises JobFailed."""
    try:
        return pipeline.run()
    except Exception as error:  # clients raise many kinds: no credentials, no permission, no bucket
        raise JobFailed(
            f"{label}: the job could not be submitted: {str(error).strip()[-2_000:]}"
        ) from error


def _is_tight(machine: str) -> bool:
    """Return whether a machine type has 1 GB or less per vCPU, or shares a vCPU."""
    if custom := _CUSTOM.fullmatch(machine):
        return int(custom[2]) <= 1024 * int(custom[1])
    return _TIGHT.fullmatch(machine) is not None
