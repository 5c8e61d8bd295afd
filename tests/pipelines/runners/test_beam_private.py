"""What this program uses of Beam although it is private: each name is there, and means what our
code expects."""

import ast
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability import flink_runner, job_server
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.version import __version__

from open_diht.pipelines.runners import beam_private
from open_diht.pipelines.runners.beam_private import (
    OptionParser,
    add_options,
    end_requests,
    open_requests,
)

CHANGED = f"Beam {__version__} has changed it; see beam_private.py for what must take its place"
BEAM = "apache_beam"
PRIVATE = re.compile("_[^_]")
_DONE = worker_handlers.BeamFnControlServicer._DONE_MARKER
PIPELINES = Path(beam_private.__file__).resolve().parents[1]


def test_a_parser_takes_the_options_of_each_class_and_refuses_a_wrong_value() -> None:
    parser = OptionParser(allow_abbrev=False, add_help=False, conflict_handler="resolve")
    add_options(StandardOptions, parser)
    known, unknown = parser.parse_known_args(["--streaming", "--no_such_option=1"])
    assert known.streaming and unknown == ["--no_such_option=1"], CHANGED
    for options in PipelineOptions.__subclasses__():
        if options.__module__.startswith("apache_beam."):
            add_options(options, parser)  # a value provider among them needs Beam's own parser


def test_requests_to_a_worker_are_seen_until_they_are_answered_and_their_stream_is_ended() -> None:
    connection = worker_handlers.ControlConnection()
    request = beam_fn_api_pb2.InstructionRequest(instruction_id="one")
    connection.push(request)
    (waiting,) = open_requests(connection)
    assert waiting.instruction_id == "one", CHANGED
    end_requests(connection)
    assert [connection.get_req(), connection.get_req()] == [request, _DONE], CHANGED
    waiting.set(
        beam_fn_api_pb2.InstructionResponse(instruction_id="one", error="the worker process died")
    )
    assert waiting.get().error == "the worker process died", CHANGED


def test_jobs_are_listed_by_the_client_that_beams_client_holds() -> None:
    client = SimpleNamespace(_jobs_client=SimpleNamespace(list_jobs=lambda request: [request]))
    assert list(beam_private.dataflow_jobs(client, "request")) == ["request"]
    source = (
        Path(inspect.getfile(flink_runner)).parents[1] / "dataflow" / "internal" / "apiclient.py"
    )
    assert "self._jobs_client = dataflow.JobsV1Beta3Client(" in source.read_text(
        encoding="utf-8"
    ), CHANGED


def test_the_output_of_flinks_job_server_goes_to_the_logger_of_its_class() -> None:
    start = inspect.getsource(job_server.SubprocessJobServer.start)
    assert 'getLogger(f"{self.__class__.__name__}")' in start, CHANGED
    assert issubclass(flink_runner.FlinkJarJobServer, job_server.SubprocessJobServer), CHANGED


def test_no_other_module_uses_a_private_name_of_beam() -> None:
    for path in sorted(PIPELINES.rglob("*.py")):
        if path.name != "beam_private.py":
            assert private_names(path) == [], path


def private_names(path: Path) -> list[str]:
    """Return the private names that a module imports from Beam, or reads from what it imports from
    there."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = [
        node
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(BEAM)
    ]
    names = {alias.asname or alias.name: alias.name for node in modules for alias in node.names}
    plain = [alias for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names |= {
        alias.asname or "apache_beam": alias.name for alias in plain if alias.name.startswith(BEAM)
    }
    read = [
        ast.unparse(node)
        for node in nodes
        if isinstance(node, ast.Attribute) and PRIVATE.match(node.attr)
    ]
    return [name for name in read if name.partition(".")[0] in names] + list(
        filter(PRIVATE.match, names.values())
    )
