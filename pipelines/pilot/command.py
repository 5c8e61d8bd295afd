"""Command line of `make pilot`: run the real stages on a random sample of units, then print the
forecast."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace

from open_diht.common.command_line import WrongUse, command, complain, say, write_numbers
from open_diht.common.naming import counted, listing
from open_diht.common.spelling import spelled_option
from open_diht.filters.spotting.settings import EFFORTS
from open_diht.pipelines.driver.cli import exit_status, settings_of, spotter_of, told
from open_diht.pipelines.driver.run import run
from open_diht.pipelines.manifests import in_words
from open_diht.pipelines.manifests.plan import known_plan, units_of
from open_diht.pipelines.pilot.efforts import sample_images, seconds_by_effort, shown
from open_diht.pipelines.pilot.forecast import (
    Forecast,
    Measured,
    Whole,
    add_run,
    forecast,
    render,
    render_run,
)
from open_diht.pipelines.pilot.measure import measure
from open_diht.pipelines.pilot.options import parse
from open_diht.pipelines.pilot.page import render_pilot
from open_diht.pipelines.pilot.probe import add_probe, probe, probe_of, render_probe
from open_diht.pipelines.pilot.sample import FOLDER, Sampling, sampling
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.runners.fork_server import ForkServer
from open_diht.pipelines.stages.dedup.findings import KINDS
from open_diht.pipelines.stages.download import NetworkDown
from open_diht.pipelines.store.commit import RunFailed, publish_bytes, publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import Models
from open_diht.pipelines.store.storage import store_path

_MUCH = 0.2
"""The forecast reports if the workers had no processor for at least this fraction of their time. On
a machine that does nothing else, the fraction is smaller."""
before_main = ForkServer.branch_off
"""Called by `run_command` after the imports: starts the process that workers are forked from."""


def _pilot(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    # A folder of the pilot's own does not disturb the whole run, and is not published.
    output = (
        settings.output / FOLDER
        if options.output
        else store_path(f"out/{settings.dataset.name}-pilot")
    )
    settings = replace(settings, output=output, publisher=None)
    chosen = sampling(settings, options.units, options.share, options.seed)
    whole_plan = chosen.whole
    plan = chosen.plan
    if options.probe and not any(info.roles.url for info in whole_plan.infos):
        columns = [column.name for info in whole_plan.infos[:1] for column in info.columns]
        raise WrongUse(
            "--probe asks addresses, and the manifests have none:"
            f" {whole_plan.files[0]['path']} has columns {listing(columns)}; name one"
            " with --url-column, or leave --probe out"
        )
    if options.for_rows and options.for_rows < plan.rows:
        raise WrongUse(
            f"--for-rows is {options.for_rows:,}, and the sample alone has {plan.rows:,} rows; give"
            f" at least as many, draw fewer with {spelled_option('units')}, or leave it out"
        )
    units = len(whole_plan.units)
    if options.for_rows or options.cores:
        cores = options.cores or settings.workers
        units = units_of(whole_plan, options.for_rows, cores, settings.unit_rows)
    layout = Layout(settings.output)
    before = known_plan(layout.plan)
    if before is not None and before["fingerprint"] != plan.fingerprint:
        raise WrongUse(
            f"{layout.root} holds a pilot of other units or of another input; choose another"
            " OUTPUT, or remove it"
        )
    longer = (
        f", {sum(unit.span.rows for unit in plan.units):,} of {counted(whole_plan.rows, 'row')}"
    )
    size = f"{len(plan.units):,} of {counted(chosen.of, 'unit')}{longer if chosen.recut else ''}"
    say(f"pilot: {size}, drawn with seed {options.seed}, in {layout.root}")
    outcome = run(settings, say, plan)
    status = told(outcome)
    if outcome.funnel is None and settings.shard:
        return status  # the last shard, or a run without SHARD, makes the forecast

    models: Models = read_json(layout.root / "run.json")["models"] if outcome.funnel else {}
    score_on_gpu = models.get("score", {}).get("device", "cpu") != "cpu"
    sample = measure(layout, plan, settings.preset, whole_plan.rows, score_on_gpu=score_on_gpu)
    if not sample or outcome.funnel is None:
        raise RunFailed("no unit of the sample could be finished, so nothing can be forecast")
    names = [unit.unit for unit in sample]
    rows = sum(unit.rows for unit in sample)
    planned = sum(unit.span.rows for unit in plan.units if unit.name in names)
    whole = Whole(
        units=len(whole_plan.units),
        recut=chosen.recut,
        # Corrected by the sample's error.
        rows=(round(whole_plan.rows * rows / planned) if planned else whole_plan.rows),
        exact_rows=all(unit.span.exact for unit in whole_plan.units),
        stages=settings.stages,
        has_images=whole_plan.images,
        score_on_gpu=score_on_gpu,
    )
    of_run = replace(whole, rows=options.for_rows or whole.rows, units=units)
    notes = _notes(whole, of_run.rows, chosen, sample, outcome.funnel)
    probed = None
    if options.probe:
        asked = min(options.probe, rows)
        say(f"probe: requesting the first kilobyte of {asked:,} addresses, one at a time per host")
        try:
            probed = probe(
                plan, names, settings.dataset, settings.download, asked, options.seed, whole.rows
            )
        except NetworkDown as error:
            status = complain(f"the probe is left out of the forecast: {error}")
        if not probed and not status:
            notes.append("the probe asked nothing: no row of the sample has an address")

    def forecast_of(data: Whole) -> Forecast:
        forecasted = forecast(sample, data)
        if probed and not data.has_images and "download" not in data.stages:
            answers = probe_of(probed.answers, probed.seconds, data.rows)
            add_probe(forecasted, answers, sample, data, settings.download.threads)
        return forecasted

    result = forecast_of(whole)
    for_run = forecast_of(of_run)
    add_run(for_run, of_run, options.cores, options.price)
    images = (
        sample_images(layout, plan, settings.dataset, names)
        if "spotting" in settings.stages
        else []
    )
    efforts = ""
    costs = None
    if images:
        asked = {effort: spotter_of(options, settings.preset, effort) for effort in EFFORTS}
        efforts, costs = shown(seconds_by_effort(images, asked), result, settings.ocr, len(images))
    content = {
        "command": list(options.command),
        "dataset": settings.dataset.name,
        "input": settings.input,
        "preset": settings.preset.name,
        "sample": {
            "seed": options.seed,
            "units": names,
            "rows": rows,
            "duplicates": outcome.funnel["duplicates"],
        },
        "whole": asdict(whole),
        "forecast": result.as_dict(),
        "run": {
            "rows": of_run.rows,
            "units": of_run.units,
            "cores": options.cores,
            "price": options.price,
            "forecast": for_run.as_dict(),
        },
        "efforts": costs,
        "probe": probed.as_dict() if probed else None,
        "notes": notes,
    }
    publish_json(layout.root / "pilot.json", content)
    page = render_pilot(content, for_run, probed, outcome.funnel)
    publish_bytes(layout.root / "pilot.html", page.encode("utf-8", "replace"))
    write_numbers(options, content)
    of = f"{rows:,} of {counted(whole.rows, 'row')} ({rows / max(whole.rows, 1):.2%})"
    say(f"\nsample: {counted(len(sample), 'unit')}, {of}\n")
    say(render(result))
    if options.for_rows or options.cores or options.price:
        say(f"\n{render_run(for_run, of_run.rows)}")
    if probed:
        say(f"\n{render_probe(probed)}\n")
    if efforts:
        say(f"\n{efforts}\n")
    for note in notes:
        say(f"- {note}")
    say(f"details: {layout.root / 'pilot.json'}; a page to send: {layout.root / 'pilot.html'}")
    return status


main = command(parse, _pilot, exit_status)


def _notes(
    whole: Whole, rows: int, chosen: Sampling, sample: Sequence[Measured], funnel: FunnelRecord
) -> list[str]:
    units = len(sample)
    is_all = units == len(chosen.plan.units) and chosen.plan.rows >= chosen.whole.rows
    if is_all and rows <= whole.rows:
        notes = ["the sample is all of the data, so fractions of its rows are exact"]
    else:
        notes = [
            "intervals are 95 %, each on its own; they reflect differences between units, not"
            " changes over time"
        ]
        if units < 2:
            notes.append(
                "one unit cannot show how units differ: intervals of fractions are too narrow, and"
                " the others are missing"
            )
        elif units < 10:
            notes.append(
                f"{units} units make wide intervals; draw more with {spelled_option('units')}"
            )
    if rows > whole.rows:
        notes.append(
            f"the forecast for {rows:,} rows takes them to be like those of the input, in files"
            " of the same size; no interval shows how other rows differ"
        )
    if not whole.exact_rows:
        notes.append("the number of rows is estimated from the bytes of the manifests")
    if chosen.recut:
        notes.append(
            f"a run cuts the data into {whole.units:,} units, larger than the sample's; the costs"
            " of a unit and of a row are estimated from the sample's two unit sizes"
        )
    if unreadable := chosen.whole.unreadable:
        notes.append(
            f"not in the forecast: {counted(len(unreadable), 'file')} that could not be read, first"
            f" {in_words(unreadable[0])}"
        )
    duplicates = sum(
        known["found"] for kind, known in funnel["duplicates"].items() if kind in KINDS
    )
    partners = (
        "; the whole data set may have a larger fraction, since a sample misses most of their"
        " partners"
    )
    notes.append(
        f"duplicates count as kept ({duplicates:,} within the sample){'' if is_all else partners}"
    )
    if "spotting" in whole.stages and not any(unit.images for unit in sample):
        notes.append(
            "OCR read no image of the sample: what depends on images is unknown; images are at most"
            " those that are forecast, multiply them by what your images take"
        )
    notes.append(
        "hours are for the cores of the pilot's workers, without starting workers or other"
        " machines' network"
    )
    waited = sum(unit.waited for unit in sample)
    everything = waited + sum(sum(unit.seconds.values()) for unit in sample)
    if waited > _MUCH * everything:
        notes.append(
            f"workers had no processor for {waited / everything:.0%} of their time, because other"
            " work kept this machine busy, or a disk or store was slow; hours leave this time out"
        )
    return notes
