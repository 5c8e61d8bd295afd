"""Command line of `make filter`: words to settings, errors to one line and an exit status.

Exit status: 0 all is well; 1 dead letters beyond the allowed share, unreadable files or a failed run; 2 wrong use,
nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from open_diht.common import command_line
from open_diht.common.command_line import OK, Once, Parser, WrongUse, complain, number, refuse_empty, say
from open_diht.common.fields import Positive, Range, Share
from open_diht.common.hub_address import SCHEME, parse_address
from open_diht.common.installation import remedy
from open_diht.common.lease import LeaseLost
from open_diht.common.plugins import PluginError, load_plugin, loaded_plugins
from open_diht.filters.captions.parse import ModelMissing
from open_diht.filters.presets import BadPreset, load_preset, preset_names
from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.spotter import SpotterError
from open_diht.filters.spotting.weights import WeightsDamaged, WeightsMissing
from open_diht.pipelines.datasets import Dataset, DatasetError, dataset_names, load_dataset, missing_data_message
from open_diht.pipelines.driver.annotations import stage_names
from open_diht.pipelines.driver.conservation import NotConserved
from open_diht.pipelines.driver.outcome import FilterOutcome
from open_diht.pipelines.driver.run import run
from open_diht.pipelines.engine.devices import add_device_options
from open_diht.pipelines.fetch import DownloadSettings
from open_diht.pipelines.hub.publisher import Publisher
from open_diht.pipelines.manifests import ManifestError, input_items
from open_diht.pipelines.manifests.formats import format_names
from open_diht.pipelines.plan import PlanMismatch
from open_diht.pipelines.runners import RUNNERS, Backend, Direct, JobFailed, RunnerError, Staged, Workers, make_backend
from open_diht.pipelines.runners.direct import check_workers
from open_diht.pipelines.runners.fork_server import ForkServer
from open_diht.pipelines.runners.portable import START_SECONDS
from open_diht.pipelines.runners.workers import WorkerDied
from open_diht.pipelines.settings import EXPORTS, SHARDS, STAGES, RunSettings, ScoreSettings
from open_diht.pipelines.stages.dedup.clusters import FaissMissing
from open_diht.pipelines.stages.score.stored import NAME
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.store.storage import StorePath, store_path

Workforce = Annotated[int, Range(at_least=1, at_most=10_000)]
"""Units at a time: far more than a machine has cores, or a cluster that we know of has slots."""
MOST_SHARDS = 10_000
"""Each shard looks for all others again and again, which takes seconds with a million of them."""
_COLUMNS = ("caption", "url", "uid", "image", "image_path")
"""Roles whose columns people may name."""
_WORK = "out/hub"
"""Where runs work that publish on a hub, each in a folder of its own."""
_HERE = ("direct", "prism")
"""Runners whose workers are on this machine."""
_WRONG_USE = (
    RunnerError,
    BadPreset,
    DatasetError,
    ManifestError,
    PlanMismatch,
    PluginError,
    FaissMissing,
)
_FAILED = (
    ModelMissing,
    WeightsMissing,
    WeightsDamaged,
    SpotterError,
    NotConserved,
    JobFailed,
    WorkerDied,
    RunFailed,
    LeaseLost,
)


def command_parser(prog: str, description: str) -> Parser:
    """The options of a run; other commands add theirs."""
    parser = Parser(prog=prog, description=description)
    parser.add_argument(
        "--dataset", help=f"one of {', '.join(dataset_names())} (default: custom with --input, else sample)"
    )
    parser.add_argument(
        "--input", help="manifests: pattern, folder, file or comma-separated list (default: data/<dataset>/)"
    )
    parser.add_argument(
        "--output",
        help="folder for everything that is written, or hf://datasets/owner/name[@branch], where it is published in "
        "the end (default: out/<dataset>)",
    )
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        help=f"with --output hf://...: where the run works, for all shards and workers (default: {_WORK}/owner/name)",
    )
    parser.add_argument("--private", action="store_true", help="with --output hf://...: a repository made is private")
    parser.add_argument("--licence", metavar="NAME", help="of the results, for the card: cc-by-4.0, ... (the source's)")
    parser.add_argument(
        "--preset", action=Once, default="paper", help=f"thresholds: {', '.join(preset_names())}, or a YAML file"
    )
    parser.add_argument("--stages", help=f"comma-separated, of {','.join(STAGES)} (default: all that apply)")
    parser.add_argument(
        "--export",
        choices=EXPORTS,
        default=SHARDS,
        help="survivors with images as new shards, or, where INPUT is webdataset tars, as an index of each tar, which "
        f"stays as it is (default {SHARDS})",
    )
    parser.add_argument(
        "--lean",
        action="store_true",
        help="parse only captions with a word that may be a verb; with --stages captions or captions,export",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module with filters, stages or formats of your own",
    )
    add_where(parser)
    parser.add_argument("--unit-rows", type=number(Positive), help="rows of a unit (default: by size and cores)")
    parser.add_argument(
        "--max-dead-share",
        type=number(Share),
        default=0.05,
        help="proportion of dead letters above which the exit status is 1 (default 0.05)",
    )
    parser.add_argument(
        "--ocr-engine",
        choices=("onnxruntime", "openvino", "cuda"),
        default="onnxruntime",
        help="what reads the images: openvino (package openvino) is faster where the processor has bf16, cuda wants "
        "onnxruntime-gpu and has not been tried; another engine reads all images anew (default onnxruntime)",
    )
    columns = parser.add_argument_group("columns of the manifest (default: found by name)")
    for role in _COLUMNS:
        columns.add_argument(f"--{role.replace('_', '-')}-column", metavar="NAME")
    columns.add_argument(
        "--format",
        metavar="NAME",
        help=f"how the manifests are written: {', '.join(format_names())}, or one of your own",
    )
    columns.add_argument(
        "--images-root",
        metavar="FOLDER",
        help="what image paths are relative to, and below which images are read, as they are below the manifest's "
        "folder (default: that folder alone)",
    )
    columns.add_argument("--delimiter", help="what separates the fields of CSV files (default: comma)")
    columns.add_argument("--columns", help="names of the columns of TSV or CSV files without header, comma-separated")
    _add_score(parser)
    _add_download(parser)
    return parser


def add_where(parser: argparse.ArgumentParser) -> None:
    """The options that say where units are done, and which of them; see `backend_of`."""
    parser.add_argument("--runner", default="direct", help=f"one of {', '.join(RUNNERS)}")
    parser.add_argument(
        "--workers", type=number(Workforce), help="units at a time (default: all cores, or a cluster's slots)"
    )
    parser.add_argument("--shard", help="i/n: do every n-th unit, i from 0; a run without it finishes")
    portable = parser.add_argument_group(
        "workers of prism, dask and flink",
        "Beam's own options are taken by their names: --flink_master=host:8081, ...",
    )
    portable.add_argument("--worker-python", metavar="FILE", help="Python with Beam and the libraries (this one)")
    portable.add_argument(
        "--boot-command", metavar="FILE", help="boot program on hosts with other files, /opt/diht/boot in our image"
    )
    portable.add_argument(
        "--start-timeout",
        type=number(Positive),
        default=int(START_SECONDS),
        metavar="SECONDS",
        help="end a job of which no worker has begun by then, or on dask when there was none for so long (default "
        f"{START_SECONDS:.0f})",
    )
    portable.add_argument(
        "--dask-scheduler",
        metavar="ADDRESS",
        help="of dask: tcp://host:8786, or the scheduler's file (default: DASK_SCHEDULER_ADDRESS, or that of `make "
        "dask-up`)",
    )


def backend_of(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    of_beam: Sequence[str],
    places: Sequence[tuple[str, str]],
) -> Backend:
    """Where units are done.

    Args:
        parser: that of the command.
        options: what it understood.
        of_beam: what it left to Beam; refused where Beam does not know it either.
        places: where workers read and write, each with what the user calls it.
    """
    backend = make_backend(
        options.runner,
        of_beam,
        Workers(
            python=options.worker_python or sys.executable,
            boot=options.boot_command,
            start_seconds=options.start_timeout,
            scheduler=options.dask_scheduler,
        ),
        ours=[name for action in parser._actions for name in action.option_strings],
    )
    if backend.name in ("direct", "dataflow"):
        for option in ("worker_python", "boot_command"):
            if getattr(options, option):
                raise WrongUse(
                    f"--{option.replace('_', '-')} says how workers of prism, dask and flink start; leave it out with "
                    f"RUNNER={backend.name}"
                )
    if options.workers and isinstance(backend, Direct):
        check_workers(options.workers)
    backend.check(places)
    return backend


def _add_score(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scores: how alike image and caption are, where a model is named")
    group.add_argument(
        "--score-model",
        metavar="NAME",
        help="open_clip:<model>:<weights>, local-dir:<folder>, or reference (weak, offline); nothing is downloaded",
    )
    add_device_options(group, "score model", prefix="score-", batch="--score-batch")


def _add_download(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("download of images, where a manifest has urls and no images")
    known = DownloadSettings()
    for name, kind, what in (
        ("threads", int, "requests at a time in each worker"),
        ("timeout", float, "seconds of an attempt, from name to last byte"),
        ("retries", int, "further attempts where the failure may pass"),
        ("max-bytes", int, "most bytes of an image"),
        ("image-size", int, "longest side of stored images, in pixels"),
        ("user-agent", str, "how servers know you; add an address where they can reach you"),
    ):
        default = getattr(known, name.replace("-", "_"))
        group.add_argument(f"--download-{name}", type=kind, metavar="X", help=f"{what} (default: {default})")
    group.add_argument(
        "--download-allow",
        metavar="ADDRESS:PORT,...",
        help="addresses or networks that may be asked though they are not public (default: none)",
    )
    group.add_argument(
        "--download-ignore-opt-out",
        action="store_true",
        help="take images whose server says noai, noindex ...; only where you have the right to",
    )


before_main = ForkServer.branch_off
"""See `run_command`: workers are forked from what is imported by then."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines") -> int:
    """Run the command line; returns the exit status. `prog` is what the command is called in its help."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def filter_rows() -> int:
        parser = command_parser(prog, "CAT filters: Complexity, Action, Text-spotting.")
        options, of_beam = parser.parse_known_args(arguments)
        return told(run(settings_of(parser, options, of_beam, arguments), say))

    return exit_status(filter_rows)


def exit_status(do: Callable[[], int]) -> int:
    """What `do` returns; errors that people can mend become one line and their exit status."""

    def do_or_stage() -> int:
        try:
            return do()
        except Staged as staged:
            say(str(staged))
            return OK

    # After Ctrl-C it is `open_diht.common.run_command` that speaks.
    return command_line.exit_status(do_or_stage, wrong_use=_WRONG_USE, failed=_FAILED, stopped=None)


def told(outcome: FilterOutcome) -> int:
    """The exit status of a run that has ended, after its errors are told."""
    for line in outcome.errors:
        complain(line)
    return outcome.status


def settings_of(
    parser: argparse.ArgumentParser, options: argparse.Namespace, of_beam: Sequence[str], arguments: Sequence[str]
) -> RunSettings:
    """What a command line asks a run to do.

    Args:
        parser: that of the command.
        options: what it understood.
        of_beam: what it left to Beam; refused where Beam does not know it either.
        arguments: the command line, for the provenance.
    """
    refuse_empty(options, "input", "output", "work")
    for name in options.plugin:
        load_plugin(name)
    dataset = load_dataset(options.dataset or ("custom" if options.input else "sample"))
    roles = {role: getattr(options, f"{role}_column") for role in _COLUMNS}
    names = options.columns.split(",") if options.columns else None
    dataset = dataset.with_roles(
        format=options.format,
        columns=names,
        delimiter=options.delimiter,
        images_root=options.images_root,
        **roles,
    )
    publisher = _publisher(options)
    place = ("--work", options.work or _work(publisher)) if publisher else ("OUTPUT", options.output)
    output = _output(place[1] or f"out/{dataset.name}", place[0])
    source = options.input or _default_input(dataset)
    backend = backend_of(parser, options, of_beam, _places((place[0], str(output)), source, dataset))
    return RunSettings(
        dataset=dataset,
        input=source,
        output=output,
        publisher=publisher,
        licence=options.licence,
        preset=load_preset(options.preset),
        stages=_stages(options.stages),
        score=_score(options),
        lean=options.lean,
        export=options.export,
        workers=options.workers or backend.default_workers(),
        backend=backend,
        shard=shard_of(options.shard),
        unit_rows=options.unit_rows,
        max_dead_share=options.max_dead_share,
        download=_download(options),
        spotter=SpotterSettings(engine=options.ocr_engine),
        command=tuple(arguments),
        plugins=loaded_plugins(),
    )


def _score(options: argparse.Namespace) -> ScoreSettings | None:
    if options.score_model is None:
        if options.stages and NAME in _stages(options.stages):
            raise WrongUse(f"STAGES names {NAME}, and no model is named; name one with --score-model")
        return None
    return ScoreSettings(
        model=options.score_model,
        device=options.score_device,
        precision=options.score_precision,
        batch_size=options.score_batch,
    )


def _download(options: argparse.Namespace) -> DownloadSettings:
    names = ("threads", "timeout", "retries", "max_bytes", "image_size", "user_agent")
    given = {name: value for name in names if (value := getattr(options, f"download_{name}")) is not None}
    allow = options.download_allow.split(",") if options.download_allow else ()
    try:
        return DownloadSettings(allow=tuple(allow), respect_opt_out=not options.download_ignore_opt_out, **given)
    except ValueError as error:
        raise WrongUse(str(error)) from error


def _publisher(options: argparse.Namespace) -> Publisher | None:
    """Who publishes the results, where OUTPUT is on a hub."""
    asked = options.output or ""
    if not asked.startswith(SCHEME):
        if options.work or options.private:
            option = "--work" if options.work else "--private"
            raise WrongUse(f"{option} is for OUTPUT=hf://datasets/owner/name; elsewhere a run works in OUTPUT itself")
        return None
    target = parse_address(asked)
    if target is None or target.kind != "dataset" or target.path:
        raise WrongUse(
            f"OUTPUT {asked!r} is no hf://datasets/owner/name[@branch]: results are published as a data set repository"
        )
    several = f"SHARD={options.shard}" if options.shard else f"RUNNER={options.runner}"
    if (options.shard or options.runner not in _HERE) and not options.work:
        raise WrongUse(
            f"{several} and OUTPUT={asked}: a hub is no place to work in together; name a folder, or an address such "
            "as s3://bucket/folder, that all of the machines see: --work FOLDER"
        )
    read = {address.repository for item in input_items(options.input or "") if (address := parse_address(item))}
    if target.repository in read:
        raise WrongUse(f"INPUT and OUTPUT are both in {target.repository}; publish to another repository")
    return Publisher(target, private=options.private)


def _work(publisher: Publisher) -> str:
    target = publisher.target
    return f"{_WORK}/{target.repository}{f'@{target.revision}' if target.revision else ''}"


def _output(text: str, called: str) -> StorePath:
    try:
        return store_path(text)
    except (ValueError, ImportError) as error:
        raise WrongUse(
            f"{called} {text!r} cannot be used ({error}); give a folder, or an address such as s3://bucket/folder, "
            f"whose package is installed: {remedy('cloud')}"
        ) from error


def _places(output: tuple[str, str], source: str, dataset: Dataset) -> list[tuple[str, str]]:
    """Where workers write and read, with what the user calls it."""
    images = [("--images-root", dataset.images_root)] if dataset.images_root is not None else []
    return [output, *(("INPUT", item) for item in input_items(source)), *images]


def _default_input(dataset: Dataset) -> str:
    folder = Path("data") / dataset.name
    if not any(folder.glob(dataset.default_glob)):
        if dataset.name == "sample":
            raise WrongUse(
                f"the sample is not in {folder}: it comes with the repository and not with the package (10 MB of "
                "images under licences of their own); run in a checkout, or say --dataset and --input"
            )
        raise WrongUse(missing_data_message(dataset, str(folder)))
    return str(folder / dataset.default_glob)


def _stages(text: str | None) -> tuple[str, ...]:
    known = stage_names()
    if text is None:
        return known
    asked = [stage.strip() for stage in text.split(",") if stage.strip()]
    unknown = [stage for stage in asked if stage not in known]
    if unknown or not asked:
        raise WrongUse(f"unknown stage {', '.join(unknown) or repr(text)}; choose from {', '.join(known)}")
    return tuple(stage for stage in known if stage in asked)


def shard_of(text: str | None) -> tuple[int, int] | None:
    """What SHARD says, (i, n). Raises WrongUse where that is none."""
    if text is None:
        return None
    first, _, second = text.partition("/")
    if first.isdecimal() and second.isdecimal() and len(text) < 20 and int(first) < int(second):
        if int(second) > MOST_SHARDS:
            raise WrongUse(f"shard {text!r} is one of more than {MOST_SHARDS:,}; give at most so many")
        return int(first), int(second)
    raise WrongUse(f"shard {text!r} is not i/n with 0 <= i < n, for example 0/4")
