"""Command line of `make filter`: turn options into settings, and errors into a message and an exit
status.

Exit status: 0 success, or a job was staged as a template; 1 error lines at the end of a run (see
`errors.errors_of`), or a failed run; 2 wrong use, and no results were written.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from open_diht.common import command_line
from open_diht.common.command_line import OK, WrongUse, complain, given_fields, say, write_numbers
from open_diht.common.fields import BadValue
from open_diht.common.hub import SCHEME, parse_address
from open_diht.common.installation import remedy
from open_diht.common.lease import LeaseLost
from open_diht.common.plugins import PluginError, load_plugin, loaded_plugins
from open_diht.common.spelling import spelled_option
from open_diht.filters.captions.parse import ModelMissing
from open_diht.filters.presets import BadPreset, Preset, load_preset
from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.spotter import SpotterError
from open_diht.filters.spotting.weights import WeightsDamaged, WeightsMissing
from open_diht.pipelines.conservation import NotConserved
from open_diht.pipelines.datasets import Dataset, DatasetError, missing_message
from open_diht.pipelines.driver.annotations import stage_names
from open_diht.pipelines.driver.run import FilterOutcome, run
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.hub.publisher import Publisher
from open_diht.pipelines.manifests import ManifestError, NoInput, input_items
from open_diht.pipelines.manifests.inputs import expand_inputs
from open_diht.pipelines.manifests.plan import PlanMismatch
from open_diht.pipelines.options import (
    START_SECONDS,
    WORK,
    RunOptions,
    dataset_of,
    parse,
    shard_of,
    stages_of,
)
from open_diht.pipelines.runners import (
    Backend,
    Direct,
    JobFailed,
    RunnerError,
    Staged,
    Workers,
    make_backend,
)
from open_diht.pipelines.runners.direct import check_workers
from open_diht.pipelines.runners.fork_server import ForkServer
from open_diht.pipelines.runners.job import WorkerDied
from open_diht.pipelines.settings import RunSettings, ScoreSettings
from open_diht.pipelines.stages.dedup.clusters import FaissMissing
from open_diht.pipelines.stages.score.stored import SCORE
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.store.locking import NotLocked
from open_diht.pipelines.store.storage import StorePath, store_path

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
    NotLocked,
    JobFailed,
    WorkerDied,
    RunFailed,
    LeaseLost,
)


def backend_of(options: argparse.Namespace, places: Sequence[tuple[str, str]]) -> Backend:
    """Return the backend that runs the units. Raise RunnerError or WrongUse if options or arguments
    for Beam cannot be used. `places` are the data that workers read and write: (name of the option
    or variable, path).
    """
    backend = make_backend(
        options.runner,
        options.of_beam,
        Workers(
            python=options.worker_python or sys.executable,
            boot=options.boot_command,
            start_seconds=options.start_timeout or START_SECONDS,
            scheduler=options.dask_scheduler,
        ),
    )
    if backend.name not in ("prism", "flink"):
        for option in ("worker_python", "boot_command"):
            if getattr(options, option):
                raise WrongUse(
                    f"--{option.replace('_', '-')} applies only to workers of flink; leave it out"
                    f" with --runner {backend.name}"
                )
    if options.start_timeout and backend.name in ("direct", "dataflow"):
        raise WrongUse(f"--start-timeout does not apply to --runner {backend.name}; leave it out")
    if options.workers and isinstance(backend, Direct):
        check_workers(options.workers)
    backend.check(places)
    return backend


before_main = ForkServer.branch_off
"""Called by `run_command` after the imports: starts the process that workers are forked from."""


def exit_status(do: Callable[[], int]) -> int:
    """Return the status of `do`, or 0 if `do` only staged a job. Print the message of an error that
    the user, the run or a store caused, and return the status of that error."""

    def do_or_stage() -> int:
        try:
            return do()
        except Staged as staged:
            say(str(staged))
            return OK

    # `open_diht.common.run_command` prints the message after Ctrl-C.
    return command_line.exit_status(do_or_stage, wrong_use=_WRONG_USE, failed=_FAILED, stopped=None)


def _filter(options: argparse.Namespace) -> int:
    outcome = run(settings_of(options), say)
    write_numbers(options, outcome.funnel)
    return told(outcome)


main = command_line.command(parse, _filter, exit_status)


def told(outcome: FilterOutcome) -> int:
    """Print the errors of a finished run and return its exit status."""
    for line in outcome.errors:
        complain(line)
    return outcome.status


def settings_of(options: argparse.Namespace) -> RunSettings:
    """Return the settings of a run, given the result of `options.parsed_run`."""
    # Plugins first, since other options may name their stages and formats.
    for name in options.plugin:
        load_plugin(name)
    dataset = dataset_of(options)
    preset = load_preset(options.preset)
    stages = stages_of(options.stages, stage_names())
    publisher = _publisher(options)
    output_option = ("OUTPUT", options.output)
    if publisher:
        target = publisher.target
        branch = f"@{target.revision}" if target.revision else ""
        output_option = ("--work", options.work or f"{WORK}/{target.repository}{branch}")
    output = _output(output_option[1] or f"out/{dataset.name}", output_option[0])
    source = options.input or _default_input(dataset, options.dataset)
    images = [("--images-root", dataset.images_root)] if dataset.images_root is not None else []
    places = [
        (output_option[0], str(output)),
        *(("INPUT", item) for item in input_items(source)),
        *images,
    ]
    backend = backend_of(options, places)
    return RunSettings(
        dataset=dataset,
        input=source,
        output=output,
        publisher=publisher,
        preset=preset,
        stages=stages,
        score=_score(options, stages),
        workers=options.workers or backend.default_workers(),
        backend=backend,
        shard=shard_of(options.shard),
        download=_download(options),
        spotter=spotter_of(options, preset),
        command=options.command,
        plugins=loaded_plugins(),
        **given_fields(options, RunOptions),
    )


def spotter_of(
    options: argparse.Namespace, preset: Preset, effort: str | None = None
) -> SpotterSettings:
    """Return the settings of the OCR that a command line asks for, with another effort if one is
    given."""
    try:
        return preset.ocr.settings(
            effort or options.ocr_effort, options.ocr_alphabet, engine=options.ocr_engine
        )
    except BadValue as error:
        raise WrongUse(f"--ocr-{error}") from error  # its first word is the name of the setting


def _score(options: argparse.Namespace, stages: Sequence[str]) -> ScoreSettings | None:
    if options.score_model is None:
        if options.stages and SCORE in stages:
            raise WrongUse(
                f"--stages includes {SCORE}, but no model is given; pass --score-model NAME"
            )
        return None
    return ScoreSettings(**given_fields(options, ScoreSettings, "score-"))


def _download(options: argparse.Namespace) -> DownloadSettings:
    given = given_fields(options, DownloadSettings, "download-")
    try:
        return DownloadSettings(
            respect_opt_out=not options.download_ignore_opt_out,
            respect_robots=not options.download_ignore_robots,
            **given,
        )
    except ValueError as error:
        raise WrongUse(str(error)) from error


def _publisher(options: argparse.Namespace) -> Publisher | None:
    """Return the publisher of the results. Return None if OUTPUT is not on a hub."""
    output = options.output or ""
    if not output.startswith(SCHEME):
        if options.work or options.private:
            option = "--work" if options.work else "--private"
            raise WrongUse(
                f"{option} applies only to {spelled_option('output', 'hf://datasets/owner/name')};"
                " leave it out"
            )
        return None
    target = parse_address(output)
    if target is None or target.kind != "dataset" or target.path:
        raise WrongUse(
            f"OUTPUT {output!r} is not hf://datasets/owner/name[@branch]; results are published as"
            " a data set repository"
        )
    several = f"--shard {options.shard}" if options.shard else f"--runner {options.runner}"
    if (options.shard or options.runner not in _HERE) and not options.work:
        raise WrongUse(
            f"{several} and {spelled_option('output', output)}: machines cannot share their work in"
            " a hub repository; pass --work FOLDER, a folder or an address such as"
            " s3://bucket/folder that all of them see"
        )
    read = {
        address.repository
        for item in input_items(options.input or "")
        if (address := parse_address(item))
    }
    if target.repository in read:
        raise WrongUse(
            f"INPUT and OUTPUT are both in {target.repository}; publish to another repository"
        )
    return Publisher(target, private=options.private)


def _output(text: str, called: str) -> StorePath:
    try:
        return store_path(text)
    except (ValueError, ImportError) as error:
        raise WrongUse(
            f"{called} {text!r} cannot be used ({error}); give a folder, or an address such as"
            f" s3://bucket/folder, whose package is installed: {remedy('cloud')}"
        ) from error


def _default_input(dataset: Dataset, given: str | None) -> str:
    folder = Path("data") / dataset.name
    if not any(folder.glob(dataset.default_glob)):
        if dataset.name == "sample":
            raise WrongUse(
                f"the sample is not in {folder}: it comes with the repository, not with the package"
                " (10 MB of images under their own licenses); run in a checkout, or pass --dataset"
                " and --input"
            )
        raise WrongUse(missing_message(dataset, str(folder), given))
    everything = str(folder / dataset.default_glob)
    if dataset.default_glob != "*":
        return everything
    try:
        # Subfolders count; files other than manifests do not.
        expand_inputs(str(folder), dataset)
    except NoInput:  # no file has an ending of manifests
        return everything
    return str(folder)
