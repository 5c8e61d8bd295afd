"""Command line of `make pilot`: run the real stages on a random sample of units, then print the forecast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace

from open_diht.common.command_line import WrongUse, say
from open_diht.common.devices import AUTO, check_device, device_here
from open_diht.common.naming import counted
from open_diht.common.spelling import spelled_option
from open_diht.pipelines.concepts.run import ConceptSettings
from open_diht.pipelines.concepts.teacher import Teacher, find_teacher
from open_diht.pipelines.driver.cli import exit_status, settings_of, told
from open_diht.pipelines.driver.run import run
from open_diht.pipelines.manifests import in_words
from open_diht.pipelines.manifests.plan import known_plan
from open_diht.pipelines.options import parse
from open_diht.pipelines.pilot.forecast import Assumptions, Forecast, Measured, Prices, Whole, forecast
from open_diht.pipelines.pilot.measure import measure, rows_of
from open_diht.pipelines.pilot.options import pilot_parser
from open_diht.pipelines.pilot.sample import FOLDER, Sampling, sampling
from open_diht.pipelines.pilot.table import render
from open_diht.pipelines.pilot.teacher import TeacherCost, measure_teacher
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.runners.fork_server import ForkServer
from open_diht.pipelines.settings import SHARDS, RunSettings
from open_diht.pipelines.stages.dedup.findings import KINDS
from open_diht.pipelines.store.commit import RunFailed, publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import store_path

_MUCH = 0.2
"""Fraction of the workers' time without a processor from which the forecast reports it."""
before_main = ForkServer.branch_off
"""See `run_command`: workers are forked with the modules imported by then."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines.pilot") -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: the command-line arguments; None: those of this process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def pilot() -> int:
        options, of_beam = parse(pilot_parser(prog), arguments)
        if options.teacher and options.export != SHARDS:
            raise WrongUse(
                f"--teacher needs images of new shards, which --export {options.export} does not write; "
                f"use --export {SHARDS}"
            )
        teacher = find_teacher(options.teacher, options.weights) if options.teacher else None
        if teacher is not None:
            check_device(device_here() if options.device == AUTO else options.device, options.precision)
        settings = settings_of(options, of_beam, arguments)
        return _pilot(options, _elsewhere(settings, options.output), teacher, arguments, say)

    return exit_status(pilot)


def _pilot(
    options: argparse.Namespace,
    settings: RunSettings,
    teacher: Teacher | None,
    arguments: Sequence[str],
    say: Callable[[str], None],
) -> int:
    workers = _workers(options.forecast_workers, settings.workers)
    chosen = sampling(settings, options.units, options.share, options.seed)
    whole_plan, plan = chosen.whole, chosen.plan
    layout = Layout(settings.output)
    before = known_plan(layout.plan)
    if before is not None and before["fingerprint"] != plan.fingerprint:
        raise WrongUse(
            f"{layout.root} holds a pilot of other units or of another input; choose another OUTPUT, or remove it"
        )
    say(f"pilot: {chosen.said}, drawn with seed {options.seed}, in {layout.root}")
    outcome = run(settings, say, plan)
    status = told(outcome)
    if outcome.funnel is None and settings.shard:
        return status  # the last shard, or a run without SHARD, makes the forecast
    models = read_json(layout.root / "run.json")["models"] if outcome.funnel else {}
    score_on_gpu = models.get("score", {}).get("device", "cpu") != "cpu"
    sample = measure(layout, plan, settings.preset, whole_plan.rows, score_on_gpu=score_on_gpu)
    if not sample or outcome.funnel is None:
        raise RunFailed("no unit of the sample could be finished, so nothing can be forecast")
    known = {unit.unit: unit.rows for unit in sample}
    planned = sum(unit.span.rows for unit in plan.units if unit.name in known)
    whole = Whole(
        units=len(whole_plan.units),
        recut=chosen.recut,
        rows=rows_of(sample, planned, whole_plan.rows),
        exact_rows=all(unit.span.exact for unit in whole_plan.units),
        stages=settings.stages,
        images_at_hand=whole_plan.images,
        image_units=sum(-(-unit.span.rows // whole_plan.image_rows) for unit in whole_plan.units),
        score_on_gpu=score_on_gpu,
    )
    assumed = Assumptions(**{one.name: getattr(options, one.name) for one in fields(Assumptions)})
    prices = Prices(**{one.name: getattr(options, one.name) for one in fields(Prices)})
    took = None if teacher is None else _measured(options, layout, sample, teacher)
    result = forecast(sample, whole, assumed, prices, workers, took)
    notes = _notes(whole, chosen, sample, outcome.funnel, result)
    content = {
        "command": list(arguments),
        "dataset": settings.dataset.name,
        "input": settings.input,
        "preset": settings.preset.name,
        "sample": {
            "seed": options.seed,
            "units": [unit.unit for unit in sample],
            "rows": sum(known.values()),
            "duplicates": outcome.funnel["duplicates"],
        },
        "whole": asdict(whole),
        "assumed": asdict(assumed),
        "teacher": None if took is None else asdict(took),
        "prices": asdict(prices),
        "forecast": result.as_dict(),
        "notes": notes,
    }
    publish_json(layout.root / "pilot.json", content)
    share = sum(known.values()) / max(whole.rows, 1)
    of = f"{sum(known.values()):,} of {counted(whole.rows, 'row')}"
    say(f"\nsample: {counted(len(sample), 'unit')}, {of} ({share:.2%})\n")
    say(render(result))
    for note in notes:
        say(f"- {note}")
    say(f"details: {layout.root / 'pilot.json'}")
    return status


def _measured(options: argparse.Namespace, layout: Layout, sample: Sequence[Measured], teacher: Teacher) -> TeacherCost:
    asked = ConceptSettings(
        data=layout.root,
        output=layout.root / "concepts",
        teacher=teacher,
        batch_size=options.batch_size,
        device=options.device,
        precision=options.precision,
    )
    return measure_teacher(layout, {unit.unit: unit.shards for unit in sample}, asked, options.teacher_images)


def _elsewhere(settings: RunSettings, asked: str | None) -> RunSettings:
    """Return the settings with an output folder of the pilot's own, so that it does not disturb the whole run."""
    output = settings.output / FOLDER if asked else store_path(f"out/{settings.dataset.name}-pilot")
    return replace(settings, output=output, publisher=None)  # and without publishing


def _workers(text: str | None, here: int) -> list[int]:
    if text is None:
        return sorted({here, 16, 160, 1600})
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise WrongUse(f"--forecast-workers {text!r} is not a list of numbers above 0, such as 16,160")
    return sorted({int(part) for part in parts})


def _notes(
    whole: Whole, chosen: Sampling, sample: Sequence[Measured], funnel: FunnelRecord, result: Forecast
) -> list[str]:
    units = len(sample)
    notes = ["intervals are 95 %, each on its own; they reflect differences between units, not changes over time"]
    is_all = units == len(chosen.plan.units) and chosen.plan.rows >= chosen.whole.rows
    if is_all:
        notes = ["the sample is all of the data, so fractions of its rows are exact"]
    elif units < 2:
        notes.append(
            "one unit cannot show how units differ: intervals of fractions are too narrow, and the others are missing"
        )
    elif units < 10:
        notes.append(f"{units} units make wide intervals; draw more with {spelled_option('units')}")
    if not whole.exact_rows:
        notes.append("the number of rows is estimated from the bytes of the manifests")
    if chosen.recut:
        notes.append(
            f"a run cuts the data into {whole.units:,} units, larger than the sample's; the costs of a unit and of a "
            "row are estimated from the sample's two unit sizes"
        )
    if unreadable := chosen.whole.unreadable:
        notes.append(
            f"not in the forecast: {counted(len(unreadable), 'file')} that could not be read, first "
            f"{in_words(unreadable[0])}"
        )
    duplicates = sum(known["found"] for kind, known in funnel["duplicates"].items() if kind in KINDS)
    partners = "; the whole data set may have a larger fraction, since a sample misses most of their partners"
    notes.append(f"duplicates count as kept ({duplicates:,} within the sample){'' if is_all else partners}")
    unknown = [name for name, line in (*result.images.items(), *result.core_hours.items()) if line.basis != "measured"]
    if unknown:
        notes.append(f"not measured, since OCR read no image of the sample: {', '.join(unknown)}")
    notes.append("hours are for the cores of the pilot's workers, without starting workers or other machines' network")
    waited = sum(unit.waited for unit in sample)
    everything = waited + sum(sum(unit.seconds.values()) for unit in sample)
    if waited > _MUCH * everything:
        notes.append(
            f"workers had no processor for {waited / everything:.0%} of their time, because other work kept this "
            "machine busy, or a disk or store was slow; hours leave this time out"
        )
    return notes
