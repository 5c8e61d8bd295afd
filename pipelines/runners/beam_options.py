"""Beam's own options on our command line: taken by their own names, checked before anything starts.

Beam itself drops an option that it does not know with a warning; here it is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import NoReturn

from apache_beam.options import pipeline_options as beam_options

from open_diht.pipelines.runners.errors import RunnerError

_OURS = {
    "runner": "RUNNER (--runner)",
    "direct_num_workers": "WORKERS (--workers)",
    "direct_running_mode": "WORKERS (--workers)",
    "dask_client_address": "--dask-scheduler",
    "dask_scheduler_file": "--dask-scheduler, which takes a file too",
    "dask_npartitions": "nothing; units are spread over the workers one by one",
    "dask_partition_size": "nothing; units are spread over the workers one by one",
    "job_endpoint": "RUNNER (--runner)",
    "streaming": "nothing; a run is a batch",
    "save_main_session": "nothing; stages are importable",
}
"""Beam options that this program sets itself, and what stands for them here."""
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
"""Which runners read the options of a class; classes not named here are read by all."""


class _Parser(beam_options._BeamArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RunnerError(message)


def check_beam_options(arguments: Sequence[str], runner: str, ours: Sequence[str] = ()) -> tuple[str, ...]:
    """`arguments` as flags for Beam, hyphens in names replaced by underscores.

    Args:
        arguments: what the command line held beside its own options.
        runner: name of the runner that is to get them.
        ours: names of this program's own options, for the suggestion where one is mistyped.

    Raises:
        RunnerError: an option is unknown to Beam, belongs to another runner, or is one that this program sets itself.
    """
    flags = tuple(_underscored(argument) for argument in arguments)
    known = {option: cls for cls in _classes() for option in _option_names(cls)}
    parser = _Parser(allow_abbrev=False, add_help=False, conflict_handler="resolve")
    for cls in _classes():
        cls._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(flags))
    if unknown:
        name = unknown[0].split("=", 1)[0]
        spelled = {option: option for option in known} | {_underscored(option): option for option in ours}
        near = difflib.get_close_matches(name, spelled, 1)
        hint = f"; did you mean {spelled[near[0]]}?" if near else " (see --help)"
        typed = next(argument for argument, flag in zip(arguments, flags, strict=True) if flag == unknown[0])
        raise RunnerError(f"unknown argument {typed!r}{hint}")
    for flag in flags:
        name = flag.split("=", 1)[0]
        if name not in known:
            continue  # the value of the option before it
        if name[2:] in _OURS:
            raise RunnerError(f"{name} is set by this program; use {_OURS[name[2:]]}")
        readers = _BELONGS.get(known[name].__name__)
        if readers is not None and runner not in readers:
            whose = f"RUNNER={' or '.join(readers)}" if readers else "a runner that is not supported"
            raise RunnerError(f"{name} is an option of {whose}, not of RUNNER={runner}")
    return flags


def option_values(flags: Sequence[str]) -> dict[str, object]:
    """All of Beam's options under their names, as `flags` set them; None or Beam's default where they do not."""
    return beam_options.PipelineOptions(list(flags)).get_all_options()


def given(flags: Sequence[str], name: str) -> bool:
    """Whether `flags` set the option `name` themselves."""
    return any(flag.split("=", 1)[0] == f"--{name}" for flag in flags)


def _underscored(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _classes() -> Iterator[type[beam_options.PipelineOptions]]:
    """Beam's option classes; a class defined outside Beam, by a test for example, is none of ours."""
    for cls in beam_options.PipelineOptions.__subclasses__():
        if cls.__module__.startswith("apache_beam."):
            yield cls


def _option_names(cls: type[beam_options.PipelineOptions]) -> list[str]:
    parser = _Parser(add_help=False, conflict_handler="resolve")
    cls._add_argparse_args(parser)
    return [option for action in parser._actions for option in action.option_strings]
