"""This machine, in Beam's embedded runner: a driver, and worker processes for all that touches data."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from open_diht.pipelines.runners.errors import RunnerError
from open_diht.pipelines.runners.job import QUIET, Job
from open_diht.pipelines.runners.workers import watched_workers

MOST_PER_CORE = 64


def check_workers(workers: int) -> int:
    """The number, where this machine may have so many worker processes. Raises RunnerError where it is a slip."""
    cores = os.cpu_count() or 1
    if workers > MOST_PER_CORE * cores:
        raise RunnerError(
            f"{workers:,} workers on this machine's {cores} cores are more than {MOST_PER_CORE} for each; "
            f"give at most {MOST_PER_CORE * cores:,}, or leave WORKERS out for one per core"
        )
    return workers


@dataclass(frozen=True)
class Direct:
    """See `Backend`.

    FnApiRunner is built here and not asked for by name: by name, worker processes start without pipeline options, and
    "DirectRunner" would first try to download another runner (beam.md section 2).
    """

    flags: Sequence[str] = ()
    name: str = field(default="direct", init=False)
    takes_hints: bool = field(default=False, init=False)
    by_partition: bool = field(default=False, init=False)
    detached: bool = field(default=False, init=False)

    def check(self, places: Sequence[tuple[str, str]]) -> None:
        pass

    def default_workers(self) -> int:
        return os.cpu_count() or 1

    def await_units(self, place: str, say: Callable[[str], None]) -> None:
        pass  # workers end with their driver

    def run(self, job: Job) -> None:
        workers = [f"--direct_num_workers={job.workers}", "--direct_running_mode=multi_processing"]
        flags = [*QUIET, *workers, *self.flags]
        options = PipelineOptions(flags)
        encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
        provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
        runner = fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
        pipeline = beam.Pipeline(runner=runner, options=options)
        job.build(pipeline)
        with watched_workers():
            pipeline.run().wait_until_finish()
