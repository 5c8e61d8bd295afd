"""The backend on this machine: Beam's embedded runner with worker processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from open_diht.pipelines.runners.job import QUIET, Backend, Job, RunnerError
from open_diht.pipelines.runners.workers import watched_workers

MOST_PER_CORE = 64


def check_workers(workers: int) -> int:
    """Return `workers`. Raises RunnerError if it is too large to be intended."""
    cores = os.cpu_count() or 1
    if workers > MOST_PER_CORE * cores:
        raise RunnerError(
            f"{workers:,} workers on this machine's {cores} cores are more than {MOST_PER_CORE} for each; "
            f"give at most {MOST_PER_CORE * cores:,}, or leave --workers out for one per core"
        )
    return workers


@dataclass(frozen=True)
class Direct(Backend):
    """A `Backend` on this machine.

    FnApiRunner is constructed here because, requested by name, its worker processes start without pipeline options, and
    "DirectRunner" first tries to download another runner.
    """

    flags: Sequence[str] = ()
    name = "direct"

    def default_workers(self) -> int:
        return os.cpu_count() or 1

    def run(self, job: Job) -> None:
        workers = [f"--direct_num_workers={job.workers}", "--direct_running_mode=multi_processing"]
        options = PipelineOptions([*QUIET, *workers, *self.flags])
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        runner = fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
        pipeline = beam.Pipeline(runner=runner, options=options)
        job.build(pipeline)
        with watched_workers():
            pipeline.run().wait_until_finish()
