"""Which Beam runner does the work, and with which options: the only module that knows."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle

from pipelines.workers import watched_workers

RUNNERS = ("direct",)


def run_units(
    label: str, unit_names: Sequence[str], do: beam.DoFn | beam.PTransform, workers: int, apart: bool = False
) -> None:
    """Give every unit name to `do` once, on `workers` processes. Returns when all are done.

    Where one worker is enough, it is this process itself, unless the units are to be kept `apart` from it.

    Raises:
        WorkerDied: a worker process ended by itself; its units may be undone.

    FnApiRunner is built here and not asked for by name: by name, worker processes start without pipeline options, and
    "DirectRunner" would first try to download another runner (beam.md section 2).
    """
    workers = max(1, min(workers, len(unit_names)))
    mode = "in_memory" if workers == 1 and not apart else "multi_processing"
    options = PipelineOptions(
        flags=[], direct_num_workers=workers, direct_running_mode=mode, default_sdk_harness_log_level="ERROR"
    )
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    runner = fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))
    pipeline = beam.Pipeline(runner=runner, options=options)
    # Without the Reshuffle all units would be fused into one worker's bundle.
    work = do if isinstance(do, beam.PTransform) else beam.ParDo(do)
    _ = pipeline | "Units" >> beam.Create(list(unit_names)) | "Spread" >> beam.Reshuffle() | label >> work
    with watched_workers():
        pipeline.run().wait_until_finish()


@contextlib.contextmanager
def worker_log(path: Path) -> Iterator[None]:
    """Send what this process and its workers write to standard error into a file: Beam is chatty, and a progress line
    is not a log.

    On an error its last lines are shown, for the worker's own traceback stands there.
    """
    try:
        terminal = os.dup(sys.stderr.fileno())
    except io.UnsupportedOperation:  # standard error is replaced by something without a file, as some test runners do
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as log:
        begin = log.tell()
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            sys.stderr.flush()
            os.write(terminal, path.read_bytes()[begin:][-4_000:] + f"\n(all of it: {path})\n".encode())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
