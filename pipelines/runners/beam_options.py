"""Accept Beam's own options on our command line, and check them before anything starts.

Beam ignores an unknown option; this module refuses it.
"""

from collections.abc import Sequence
from typing import NoReturn

from apache_beam.options import pipeline_options as beam_options

from open_diht.pipelines.options import underscored
from open_diht.pipelines.runners.beam_private import OptionParser, add_options
from open_diht.pipelines.runners.job import RunnerError

_OURS = {
    "runner": "use --runner",
    "direct_num_workers": "use --workers",
    "direct_running_mode": "use --workers",
    "dask_client_address": "use --dask-scheduler",
    "dask_scheduler_file": "use --dask-scheduler, which takes a file too",
    "dask_npartitions": "leave it out, because units are spread over the workers in small parts",
    "dask_partition_size": "leave it out, because units are spread over the workers in small parts",
    "job_endpoint": "use --runner",
    "streaming": "leave it out, because a run is a batch",
    "save_main_session": "leave it out, because stages are importable",
}
"""Beam options that are refused, each with its remedy."""
_BELONGS = {
    "FlinkRunnerOptions": ("flink",),
    "PrismRunnerOptions": ("prism",),
    "JobServerOptions": ("flink", "prism"),
    "PortableOptions": ("flink", "prism"),
    "WorkerOptions": ("flink", "prism", "dataflow"),
    "GoogleCloudOptions": ("dataflow",),
    "DaskOptions": ("dask",),
    "SparkRunnerOptions": (),
    "KafkaStreamsRunnerOptions": (),
}
"""Maps a class of options to the runners that accept them. Options of other classes are accepted,
except `_OURS`."""


class _Parser(OptionParser):  # type: ignore[misc]
    def error(self, message: str) -> NoReturn:
        raise RunnerError(message)


def check_beam_options(arguments: Sequence[str], runner: str) -> tuple[str, ...]:
    """Return `arguments`, the rest that `options.parse` left, as flags for Beam, with underscores
    instead of hyphens in their names. Raise RunnerError if an option is unknown to Beam, has a
    wrong value or none, belongs to another runner, or is one of `_OURS`."""
    flags = tuple(underscored(argument) for argument in arguments)
    parser = _Parser(allow_abbrev=False, add_help=False, conflict_handler="resolve")
    owners = dict[str, str]()
    for cls in beam_options.PipelineOptions.__subclasses__():
        if cls.__module__.startswith("apache_beam."):  # others are of tests, for example
            add_options(cls, parser)
            for action in parser._actions:
                owners |= {
                    name: cls.__name__ for name in action.option_strings if name not in owners
                }
    _, unknown = parser.parse_known_args(list(flags))
    if unknown:
        typed = next(
            argument for argument, flag in zip(arguments, flags, strict=True) if flag == unknown[0]
        )
        raise RunnerError(f"unknown argument {typed!r} (see --help)")
    for flag in flags:
        name = flag.partition("=")[0]
        if name not in owners:
            continue  # the value of the option before it
        if name[2:] in _OURS:
            raise RunnerError(f"{name} is set by this program; {_OURS[name[2:]]}")
        readers = _BELONGS.get(owners[name])
        if readers is not None and runner not in readers:
            whose = (
                f"--runner {' or '.join(readers)}" if readers else "a runner that is not supported"
            )
            raise RunnerError(f"{name} is an option of {whose}, not of --runner {runner}")
    return flags


def option_values(flags: Sequence[str]) -> dict[str, object]:
    """Return the value of every Beam option by its name. An option that `flags` lack has Beam's
    default."""
    return beam_options.PipelineOptions(list(flags)).get_all_options()


def given(flags: Sequence[str], name: str) -> bool:
    """Return whether `flags` contain the option `name`."""
    return any(flag.partition("=")[0] == f"--{name}" for flag in flags)
