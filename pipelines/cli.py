"""Command line of `make filter`: words to settings, errors to one line and an exit status.

Exit status: 0 all is well; 1 dead letters beyond the allowed share, unreadable files or a failed run; 2 wrong use,
nothing was written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from filters.captions.parse import ModelMissing
from filters.presets import BadPreset, load_preset, preset_names
from filters.spotting.spotter import SpotterError
from filters.spotting.weights import WeightsDamaged, WeightsMissing
from pipelines.datasets import Dataset, DatasetError, dataset_names, load_dataset, missing_data_message
from pipelines.manifests import ManifestError
from pipelines.outcome import NotConserved
from pipelines.plan import PlanMismatch
from pipelines.run import run
from pipelines.runner import RUNNERS
from pipelines.settings import STAGES, RunSettings, WrongUse
from pipelines.storage import Place, place

FAILED, WRONG_USE = 1, 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message} (see --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="make filter", description="CAT filters: Complexity, Action, Text-spotting.", allow_abbrev=False
    )
    parser.add_argument("--dataset", default="sample", help=f"one of {', '.join(dataset_names())}")
    parser.add_argument(
        "--input", help="manifests: pattern, folder, file or comma-separated list (default: data/<dataset>/)"
    )
    parser.add_argument("--output", help="folder for everything that is written (default: out/<dataset>)")
    parser.add_argument("--preset", default="paper", help=f"thresholds: {', '.join(preset_names())}, or a YAML file")
    parser.add_argument("--stages", help=f"comma-separated, of {','.join(STAGES)} (default: all)")
    parser.add_argument("--runner", default="direct", help=f"one of {', '.join(RUNNERS)}")
    parser.add_argument("--workers", type=_positive, help="worker processes (default: all cores)")
    parser.add_argument("--shard", help="i/n: do every n-th unit, i from 0; a run without it finishes")
    parser.add_argument("--unit-rows", type=_positive, help="rows of a unit (default: by size and cores)")
    parser.add_argument(
        "--max-dead-share",
        type=float,
        default=0.05,
        help="share of dead letters above which the exit status is 1 (default 0.05)",
    )
    columns = parser.add_argument_group("columns of the manifest (default: found by name)")
    for role in ("caption", "url", "uid", "image", "image_path"):
        columns.add_argument(f"--{role.replace('_', '-')}-column", metavar="NAME")
    columns.add_argument(
        "--format", choices=("parquet", "tsv", "csv", "jsonl", "webdataset"), help="how the manifests are written"
    )
    columns.add_argument(
        "--pictures-root", metavar="FOLDER", help="what picture paths are relative to (default: the manifest's folder)"
    )
    columns.add_argument("--delimiter", help="what separates the fields of CSV files (default: comma)")
    columns.add_argument("--columns", help="names of the columns of TSV or CSV files without header, comma-separated")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        outcome = run(_settings(arguments), _say)
    except (WrongUse, BadPreset, DatasetError, ManifestError, PlanMismatch) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    except (ModelMissing, WeightsMissing, WeightsDamaged, SpotterError, NotConserved) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nstopped; the units done so far are committed, the same command goes on from there", file=sys.stderr)
        return 130
    return outcome.status


def _say(line: str) -> None:
    print(line, flush=True)  # pipes see it at once


def _settings(arguments: Sequence[str]) -> RunSettings:
    options = _parser().parse_args(arguments)
    if options.runner not in RUNNERS:
        raise WrongUse(f"unknown runner {options.runner!r}; choose {' or '.join(RUNNERS)}")
    dataset = load_dataset(options.dataset)
    roles = {role: getattr(options, f"{role}_column") for role in ("caption", "url", "uid", "image", "image_path")}
    names = options.columns.split(",") if options.columns else None
    dataset = dataset.with_roles(
        format=options.format,
        columns=names,
        delimiter=options.delimiter,
        pictures_root=options.pictures_root,
        **roles,
    )
    return RunSettings(
        dataset=dataset,
        input=options.input or _default_input(dataset),
        output=_output(options.output or f"out/{dataset.name}"),
        preset=load_preset(options.preset),
        stages=_stages(options.stages),
        workers=options.workers or os.cpu_count() or 1,
        shard=_shard(options.shard),
        unit_rows=options.unit_rows,
        max_dead_share=options.max_dead_share,
        command=tuple(arguments),
    )


def _output(text: str) -> Place:
    try:
        return place(text)
    except (ValueError, ImportError) as error:
        raise WrongUse(
            f"OUTPUT {text!r} cannot be used ({error}); give a folder, or an address such as s3://bucket/folder, "
            "whose package is installed: pip install '.[s3]' or '.[gcp]'"
        ) from error


def _default_input(dataset: Dataset) -> str:
    folder = Path("data") / dataset.name
    if not any(folder.glob(dataset.default_glob)):
        raise WrongUse(missing_data_message(dataset, str(folder)))
    return str(folder / dataset.default_glob)


def _stages(text: str | None) -> tuple[str, ...]:
    if text is None:
        return STAGES
    asked = [stage.strip() for stage in text.split(",") if stage.strip()]
    unknown = [stage for stage in asked if stage not in STAGES]
    if unknown or not asked:
        raise WrongUse(f"unknown stage {', '.join(unknown) or repr(text)}; choose from {', '.join(STAGES)}")
    return tuple(stage for stage in STAGES if stage in asked)


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, second = text.partition("/")
    if first.isdecimal() and second.isdecimal() and int(first) < int(second):
        return int(first), int(second)
    raise WrongUse(f"shard {text!r} is not i/n with 0 <= i < n, for example 0/4")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
