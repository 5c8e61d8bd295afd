"""The options of `make filter`, which other commands extend.

This module imports quickly, so mistyped options are reported and `--help` is printed before Beam
and spaCy are imported, which takes seconds.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, Literal

from open_diht.common.command_line import (
    GivenOnce,
    Parser,
    WrongUse,
    add_fields,
    number,
    refuse_empty,
)
from open_diht.common.devices import DeviceSettings
from open_diht.common.fields import Positive, Range, Share
from open_diht.common.yaml_files import Shelf, read_yaml
from open_diht.pipelines.datasets import Dataset, DatasetError, dataset_names, load_dataset
from open_diht.pipelines.datasets.roles import WITH_OPTION
from open_diht.pipelines.fetch.settings import DownloadSettings

STAGES = ("captions", "download", "spotting", "score", "dedup", "export")
SHARDS: Final = "shards"
INDEX: Final = "index"
EXPORTS = SHARDS, INDEX
"""Values of --export: kept rows as new tars, or as an index of the input's tars."""
RUNNERS = ("direct", "dask", "flink", "dataflow")
"""Values of --runner for users. `PRISM` is accepted too."""
PRISM = "prism"
"""Name of Beam's own portable runner, which tests use: it is slow, but has the protocol of
clusters."""
_BEAM_NAMES = {
    "PrismRunner": PRISM,
    "DaskRunner": "dask",
    "FlinkRunner": "flink",
    "DataflowRunner": "dataflow",
}
"""Maps Beam's names of runners to ours, except for DirectRunner. Launchers of Beam's own pass these
names."""
MOST_SHARDS = 10_000
"""Upper bound of n in SHARD=i/n: each shard polls for all others, which takes seconds at a million
shards."""
START_SECONDS = 600
"""Seconds that a job may wait for a worker; large clusters take minutes to assign slots."""
FORMATS = ("parquet", "tsv", "csv", "jsonl", "webdataset")
WORK = "out/hub"
"""Parent of the default working folders of runs that publish to a hub."""
Workforce = Annotated[int, Range(at_least=1, at_most=10_000)]
"""Type of --workers. The upper limit exceeds the cores of a machine and the slots of any cluster
known to us."""
_PRESETS = Shelf(Path(__file__).parents[1] / "filters" / "presets", "preset", WrongUse)
"""The files of `filters.presets`, which takes seconds to import."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The settings of a run that the command line takes as they are."""

    license: Annotated[str, "NAME"] | None = None
    """License of the results, as cc-by-4.0 (default: the source's). It is named in their data set
    card."""
    decontaminate: Annotated[str, "SETS"] | None = None
    """Reject images of evaluation sets: diht29, demo, tasks, FOLDER/ of images, FILE.parquet;
    comma-separated. With None, no image is compared."""
    against: Annotated[str, "OUTPUT,..."] | None = None
    """Reject rows that earlier outputs have: their uids, pairs and images, by stored keys (default:
    the outputs of section `against` of the preset)."""
    export: Literal["shards", "index"] = SHARDS
    """Write kept images as new shards, or as indexes of webdataset INPUT's unchanged tars. An
    index of a tar lists the kept samples that training can use."""
    lean: bool = False
    """Parse only captions with a possible verb; with --stages captions or captions,export. A preset
    that requires an action rejects the other captions anyway. Their other annotations stay null."""
    unit_rows: Positive | None = None
    """Rows per unit (default: by size and workers). A file is cut there if it can be divided. The
    first run on an output folder fixes the number."""
    # Scraped manifests have some bad rows; more than a few percent suggest a wrong column or
    # damaged files.
    max_dead_share: Share = 0.05
    """Fraction of rows in the dead-letter table above which the exit status is 1."""


@dataclass(frozen=True, kw_only=True)
class OcrOptions:
    """The options of the OCR."""

    engine: Literal["onnxruntime", "openvino"] = "onnxruntime"
    """OCR engine: openvino (package openvino) is faster if the processor has bf16; a change reads
    all images again."""
    effort: Literal["low", "medium", "high"] | None = None
    """How much text is found in images, at what cost; a change reads all images again (default:
    that of the preset, mostly medium)."""
    alphabet: Annotated[str, "{latin,all}"] | None = None
    """Characters that are read: all adds Chinese and Greek; a change reads all images again
    (default: that of the preset, mostly latin)."""


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """The options of the columns of manifests, next to those of single roles."""

    caption_columns: Annotated[str, "NAME,..."] | None = None
    """Columns of several captions per image, each a text or a list of texts; each caption is
    decided."""
    images_root: Annotated[str, "FOLDER"] | None = None
    """Folder that image paths are relative to; images are read below it and below the manifest's
    folder (default: the latter only)."""
    delimiter: str | None = None
    """Separator of the fields of CSV files (default: the data set's, mostly a comma)."""
    columns: str | None = None
    """Names of the columns of TSV or CSV files without header, comma-separated."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """The options of the workers next to their runner and number."""

    shard: str | None = None
    """I/n: process every n-th unit, i from 0; the last one completes the output."""
    worker_python: Annotated[str, "FILE"] | None = None
    """Flink only: Python with Beam and the libraries (this one)."""
    boot_command: Annotated[str, "FILE"] | None = None
    """Flink only: boot program on hosts with other files, /opt/diht/boot in our image."""
    dask_scheduler: Annotated[str, "ADDRESS"] | None = None
    """Scheduler: tcp://host:8786 or its file (default: DASK_SCHEDULER_ADDRESS, or that of `make
    dask-up`)."""


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines"
) -> argparse.Namespace:
    """Parse the command line of `make filter`, see `parsed_run`."""
    return parsed_run(filter_parser(prog), arguments)


def parsed_run(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line of a parser that `command_parser` made, see `parsed`. Raise WrongUse for
    a stage, data set or preset that does not exist, unless there are plugins: they are loaded
    later, and may add stages.
    """
    options = parsed(parser, arguments)
    refuse_empty(options, "input", "output", "work", "decontaminate", "against")
    if options.plugin:
        return options
    try:
        dataset_of(options)
    except DatasetError as error:
        raise WrongUse(str(error)) from error
    path = _PRESETS.path(options.preset)
    with _PRESETS.explained(path):
        read_yaml(path)
    stages_of(options.stages, STAGES)
    return options


def dataset_of(options: argparse.Namespace) -> Dataset:
    """Return the data set that a command line asks for, with its options for columns. Raise
    DatasetError."""
    dataset = load_dataset(options.dataset or ("custom" if options.input else "sample"))
    return dataset.with_roles(
        format=options.format,
        columns=options.columns.split(",") if options.columns else None,
        captions=options.caption_columns.split(",") if options.caption_columns else None,
        delimiter=options.delimiter,
        images_root=options.images_root,
        **{role: getattr(options, f"{role}_column") for role in WITH_OPTION},
    )


def stages_of(text: str | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return the stages that --stages names, in the order of `known`, or all of them if `text` is
    None. Raise WrongUse for others."""
    if text is None:
        return tuple(known)
    asked = [stage.strip() for stage in text.split(",") if stage.strip()]
    unknown = [stage for stage in asked if stage not in known]
    if unknown or not asked:
        raise WrongUse(
            f"unknown stage {', '.join(unknown) or repr(text)}; choose from {', '.join(known)}"
        )
    return tuple(stage for stage in known if stage in asked)


def runner_of(name: str) -> str:
    """Return the name of a runner in `RUNNERS` or `PRISM`, given that name or Beam's. Raise
    WrongUse for others."""
    name = _BEAM_NAMES.get(name, name)
    if name not in (*RUNNERS, PRISM):
        raise WrongUse(
            f"unknown runner {name!r}; choose {', '.join(RUNNERS[:-1])} or {RUNNERS[-1]}"
        )
    return name


def shard_of(text: str | None) -> tuple[int, int] | None:
    """Parse SHARD=i/n into (i, n), and leave None unchanged. Raise WrongUse for other text or n
    above `MOST_SHARDS`."""
    if text is None:
        return None
    first, _, second = text.partition("/")
    if first.isdecimal() and second.isdecimal() and len(text) < 20 and int(first) < int(second):
        if int(second) > MOST_SHARDS:
            raise WrongUse(f"shard {text!r} has too many shards; give at most {MOST_SHARDS:,}")
        return int(first), int(second)
    raise WrongUse(f"shard {text!r} is not i/n with 0 <= i < n, for example 0/4")


def parsed(parser: Parser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line, by default that of the process. Return the values of our options;
    `of_beam`, the arguments left for Beam; and `command`, all arguments. Raise WrongUse for a wrong
    value, also of --runner and --shard, and for an unknown option that resembles one of ours or of
    Beam's. Beam is not imported."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options, left = parser.parse_known_args(words)
    options.of_beam = left
    options.command = tuple(words)
    # Compare names in Beam's spelling, and report ours in our spelling.
    ours = {underscored(name): name for action in parser._actions for name in action.option_strings}
    beams = _beam_names()
    for word in left:
        name = underscored(word.partition("=")[0])
        # Beam defines its Dask options in another module.
        if not name.startswith("--") or name in beams or name.startswith("--dask_"):
            continue
        if near := get_close_matches(name, [*ours, *beams], 1):
            raise WrongUse(f"unknown argument {word!r}; did you mean {ours.get(near[0], near[0])}?")
    runner_of(options.runner)
    shard_of(options.shard)
    return options


def underscored(argument: str) -> str:
    """Return an option with underscores in its name, as Beam spells it; return other arguments
    unchanged."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


@cache
def _beam_names() -> frozenset[str]:
    """Return the names of Beam's options, read from its source because importing Beam takes
    seconds."""
    beam = find_spec("apache_beam")
    folder = beam.submodule_search_locations[0] if beam and beam.submodule_search_locations else ""
    source = Path(folder, "options", "pipeline_options.py")
    text = source.read_text(encoding="utf-8") if source.is_file() else ""
    return frozenset(re.findall(r"""['"](--\w+)['"]""", text))


def filter_parser(prog: str) -> Parser:
    return command_parser(
        prog, "Filter image-text pairs with CAT: Complexity, Action, Text-spotting."
    )


def command_parser(prog: str, description: str, numbers: str = "the funnel") -> Parser:
    """Return a parser with the options of a run, to which other commands add theirs. `numbers` is
    what --json writes."""
    parser = Parser(prog=prog, description=description)
    data = parser.first_group("input and output")
    data.add_argument(
        "--dataset",
        help=f"one of {', '.join(dataset_names())} (default: custom with --input, else sample)",
    )
    data.add_argument(
        "--input",
        help="manifests: pattern, folder, file or comma-separated list (default: data/<dataset>/)",
    )
    data.add_argument(
        "--output",
        help=(
            "folder of the results, or hf://datasets/owner/name[@branch] to publish them at the end"
            " (default: out/<dataset>)"
        ),
    )
    data.add_argument(
        "--work",
        metavar="FOLDER",
        help=(
            "with --output hf://...: working folder, seen by all shards and workers (default: "
            f"{WORK}/owner/name[@branch])"
        ),
    )
    data.add_argument(
        "--private",
        action="store_true",
        help="with --output hf://...: keep a new repository private",
    )
    add_fields(data, RunOptions, "license")
    parser.add_argument(
        "--preset",
        action=GivenOnce,
        default="paper",
        help=f"thresholds: {', '.join(_PRESETS.names())}, or a YAML file",
    )
    add_fields(parser, RunOptions, "decontaminate", "against")
    parser.add_argument(
        "--stages",
        help=f"comma-separated, of {','.join(STAGES)} and those of plugins (default: all)",
    )
    add_fields(parser, RunOptions, "export", "lean")
    parser.add_plugins("filters, stages or formats")
    add_where(parser)
    add_fields(parser, RunOptions, "unit_rows", "max_dead_share")
    add_fields(parser, OcrOptions, prefix="ocr-")
    columns = parser.add_argument_group("columns of the manifest (default: found by name)")
    for role in WITH_OPTION:
        columns.add_argument(f"--{role.replace('_', '-')}-column", metavar="NAME")
    add_fields(columns, ColumnOptions, "caption_columns")
    columns.add_argument(
        "--format",
        metavar="NAME",
        help=f"format of the manifests: {', '.join(FORMATS)}, or one of your own",
    )
    add_fields(columns, ColumnOptions, "images_root", "delimiter", "columns")
    _add_score(parser)
    _add_download(parser)
    parser.add_script_options(numbers)
    return parser


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the runner, its workers and the shard; see `backend_of`."""
    parser.add_argument("--runner", default="direct", help=f"one of {', '.join(RUNNERS)}")
    parser.add_argument(
        "--workers",
        type=number(Workforce),
        help=(
            "units at a time for which the input is cut; with direct and flink also the most that"
            " run (default: all cores; with dask and flink, the cluster's slots; with flink without"
            " a cluster, 1; with dataflow, --max_num_workers, --num_workers or 32)"
        ),
    )
    add_fields(parser, WorkerOptions, "shard")
    portable = parser.add_argument_group(
        "workers of dask and flink",
        "Beam's own options are accepted too: --flink_master=host:8081, ...",
    )
    add_fields(portable, WorkerOptions, "worker_python", "boot_command")
    portable.add_argument(
        "--start-timeout",
        type=number(Positive),
        metavar="SECONDS",
        help=f"end a job after so long without a worker (default {START_SECONDS})",
    )
    add_fields(portable, WorkerOptions, "dask_scheduler")


def _add_score(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "scores: similarity of image and caption, if a model is named"
    )
    group.add_argument(
        "--score-model",
        metavar="NAME",
        help=(
            "open_clip:<model>:<weights>, local-dir:<folder>, or reference (weak, offline); weights"
            " are not fetched"
        ),
    )
    group.add_argument(
        "--score-batch",
        dest="score_batch_size",
        type=number(Positive),
        metavar="N",
        help="images in a batch of the model (default: 32; 256 on a GPU)",
    )
    add_fields(group, DeviceSettings, "device", "precision", prefix="score-")


def _add_download(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("download of images, if a manifest has urls but no images")
    names = ("threads", "timeout", "retries", "max_bytes", "image_size", "user_agent")
    add_fields(group, DownloadSettings, *names, prefix="download-")
    group.add_argument(
        "--download-allow",
        type=lambda text: tuple(text.split(",")) if text else (),
        default=(),
        metavar="ADDRESS:PORT,...",
        help=(
            "addresses or networks that downloads may contact although non-public or at another"
            " port (default: none)"
        ),
    )
    group.add_argument(
        "--download-ignore-opt-out",
        action="store_true",
        help=(
            "download images despite noai, noindex, ... of their server; only if you have the"
            " right to"
        ),
    )
    group.add_argument(
        "--download-ignore-robots",
        action="store_true",
        help=(
            "do not read the robots.txt of servers, and download what they disallow; only if you"
            " have the right to"
        ),
    )
