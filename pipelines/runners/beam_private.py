"""All that this program uses of Beam although it is private, with the reason for each. A new
version of Beam may change it without notice; `tests/pipelines/runners/test_beam_private.py` then
names what has changed.
"""

from collections.abc import Sequence
from typing import Any

from apache_beam.options import pipeline_options
from apache_beam.runners.portability.fn_api_runner import worker_handlers

OptionParser: Any = pipeline_options._BeamArgumentParser
"""The parser class of Beam's options. A plain ArgumentParser lacks the method that options of value
providers call."""


def add_options(options: type[pipeline_options.PipelineOptions], parser: Any) -> None:
    """Add the options of a class to a parser. Only so can they be checked before a job:
    PipelineOptions itself ignores unknown options, and reports a wrong value by ending the
    process."""
    options._add_argparse_args(parser)  # type: ignore[attr-defined]


def end_requests(connection: Any) -> None:
    """End the stream of requests to a worker. FnApiRunner does so only for workers that have
    connected; one that is still starting would wait for its first request forever."""
    connection.push(worker_handlers.BeamFnControlServicer._DONE_MARKER)


def open_requests(connection: Any) -> Sequence[Any]:
    """Return the requests to a worker that it has not answered, as futures with an
    `instruction_id`. FnApiRunner waits forever for those of a dead worker, and its method `abort`
    leaves the readers of the data waiting.
    """
    return list(connection._futures_by_id.values())


def dataflow_jobs(client: Any, request: Any) -> Any:
    """Return an iterator over the jobs that a service lists. Beam's client can find a job by its
    name, but it overlooks jobs that are not yet running, and searches without end if there is no
    such job."""
    return client._jobs_client.list_jobs(request=request)
