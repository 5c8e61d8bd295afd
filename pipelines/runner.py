"""Which Beam runner does the work, and with which options: the only module that knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

RUNNERS = ("direct",)


def run_units(label: str, unit_names: Sequence[str], do: beam.DoFn, workers: int) -> None:
    """Give every unit name to `do` once, on `workers` processes. Returns when all are done.

    FnApiRunner is built here and not asked for by name: by name, worker processes start without pipeline options, and "DirectRunner" would
    first try to download another runner (beam.md section 2).
    """
    workers = max(1, min(workers, len(unit_names)))
    mode = "in_memory" if workers == 1 else "multi_processing"
    options = PipelineOptions(direct_num_workers=workers, direct_running_mode=mode)
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    runner = fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    pipeline = beam.Pipeline(runner=runner, options=options)
    # Without the Reshuffle all units would be fused into one worker's bundle.
    _ = pipeline | "Units" >> beam.Create(list(unit_names)) | "Spread" >> beam.Reshuffle() | label >> beam.ParDo(do)
    pipeline.run().wait_until_finish()
