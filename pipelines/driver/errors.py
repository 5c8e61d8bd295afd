"""Error lines of a run or shard that ended without an exception. If there are any, its exit status
is 1."""

from collections import Counter
from typing import get_args

import pyarrow as pa

from open_diht.common.naming import counted
from open_diht.common.spelling import spelled_option
from open_diht.filters.built_in import NoCaption
from open_diht.filters.cascade import NOT_AT_HAND
from open_diht.filters.download import EXPLANATIONS, Reason
from open_diht.filters.score import NOT_SCORED
from open_diht.filters.spotting.decode import UnreadableImageReason
from open_diht.pipelines.engine.engine import Failed
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests.images import MissingReason, image_folders
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.decide import broken_unit
from open_diht.pipelines.store.records import Broken


def errors_of(work: Work, funnel: FunnelRecord | None, settings: RunSettings) -> tuple[str, ...]:
    """Return the error lines of a run. The last one is a remedy if no row has a caption or no image
    could be read. `funnel` is None if the run ended before its counts were complete."""
    paths = {unit.name: unit.span.path for unit in work.plan.units}
    given_up = {paths[unit] for unit in work.quarantined}
    lines = [
        f"{path} {what}: "
        + (
            "none of its rows are in the results"
            if path in given_up
            else "the results are from its earlier content"
        )
        + ". Restore it and run the same command to redo its units, or choose another OUTPUT for"
        " its new content"
        for path, what in work.changed.items()
    ]
    if failed := {
        unit: record for unit, record in work.quarantined.items() if paths[unit] not in work.changed
    }:
        unit, record = next(iter(failed.items()))
        last = record["tries"][-1]
        lines.append(
            f"failed: {counted(len(failed), 'unit')}, first {unit} in stage {record['stage']},"
            f" {counted(len(record['tries']), 'time')} ({last['error']}: {last['message']});"
            f" details: {work.layout.failed(record['stage'], record['unit'])}. Run the same command"
            " to try again"
        )
    if funnel is None:
        return tuple(lines)
    if unread := funnel["dead_letter"]["units"] - len(funnel["set_aside"]):
        lines.append(
            f"{counted(unread, 'part')} of the input could not be read completely"
            f" ({funnel['dead_letter']['first']}); repair or leave out the file and choose another"
            " OUTPUT (all such files and units are in dead_letter/)"
        )
    dead = funnel["dead_letter"]["rows"]
    most = settings.max_dead_share
    if (fraction := dead / funnel["rows_in"] if funnel["rows_in"] else 0.0) > most:
        lines.append(
            f"dead-letter table: {counted(dead, 'row')} ({fraction:.1%}), more than the allowed"
            f" {most:.1%}; see dead_letter/, or allow more with --max-dead-share"
        )
    if lost := _all_lost(work, funnel, settings):
        lines.append(lost)
    return tuple(lines)


_OTHER_OUTPUT = "and choose another OUTPUT or remove this one, which was made from other columns"
_ADDRESS = "if you trust the server, allow it with --download-allow ADDRESS:PORT"
_NETWORK = "check that this machine reaches the servers; downloads use no proxy"
_REMEDIES: dict[str, str] = {
    "image_outside_root": (
        "if you trust the manifest, allow the folder of the images with --images-root FOLDER"
    ),
    Reason.BAD_URL: f"name the column of the addresses with --url-column NAME, {_OTHER_OUTPUT}",
    Reason.BLOCKED_PORT: _ADDRESS,
    Reason.BLOCKED_ADDRESS: _ADDRESS,
    Reason.DNS_FAILED: _NETWORK,
    Reason.CONNECT_FAILED: _NETWORK,
    Reason.TIMEOUT: f"{_NETWORK}, or allow more time with --download-timeout SECONDS",
    Reason.TOO_LARGE: "allow larger files with --download-max-bytes N",
    Reason.OPT_OUT: "if you have the right to use the images, pass --download-ignore-opt-out",
    Reason.ROBOTS_DENIED: (
        "if the owners of these servers allow it, pass --download-ignore-robots"
    ),
    Reason.HASH_MISMATCH: "check that the manifest's column of hashes belongs to these images",
}
_NO_IMAGE = {NOT_AT_HAND, NOT_SCORED, *EXPLANATIONS}
"""Reasons of rejected rows without a readable image. Captions that cannot be embedded have
`NOT_SCORED` too."""
_BAD_IMAGE = {*get_args(MissingReason), *UnreadableImageReason}
"""Errors of dead-letter rows without a readable image."""


def _all_lost(work: Work, funnel: FunnelRecord, settings: RunSettings) -> str | None:
    """Return an error line with the likeliest remedy if no row has a caption, or if every row that
    needed an image lacks one or was not scored. Return None otherwise."""
    rejected = funnel["rejected"]
    dead = funnel["dead_letter"]["by_error"]
    without = rejected.get(NoCaption.reason, 0)
    if without and without == funnel["rows_in"]:
        return (
            f"no row of {without:,} has a caption; name the column of the captions with "
            f"--caption-column NAME, {_OTHER_OUTPUT}"
        )
    lost = Counter({reason: rows for reason, rows in rejected.items() if reason in _NO_IMAGE})
    lost.update({error: rows for error, rows in dead.items() if error in _BAD_IMAGE})
    judged = any(
        step["rejected"]
        for step in funnel["steps"]
        if step["stage"] not in ("columns", "captions") and step["reason"] not in _NO_IMAGE
    )
    if funnel["kept"] or judged or not lost:
        return None
    reason, rows = lost.most_common(1)[0]
    if reason == NOT_AT_HAND:
        remedy = (
            f"name the column of the image files with --image-path-column NAME, {_OTHER_OUTPUT}"
        )
        if work.plan.downloadable():
            remedy = (
                f"add download to {spelled_option('stages')}, or filter without images with "
                f"{spelled_option('stages', 'captions,export')}"
            )
    elif reason == "image_missing":
        info = next((info for info in work.plan.infos if info.roles.image_path is not None), None)
        where = f" in {image_folders(info.path, settings.dataset)[0]}" if info is not None else ""
        remedy = f"images were looked for{where}; name another folder with --images-root FOLDER"
    else:
        remedy = _REMEDIES.get(
            reason, "see rejected/ and dead_letter/ for the messages of single rows"
        )
    total = counted(lost.total(), "row")
    return (
        f"no image could be read: {rows:,} of the {total} that needed one ended with {reason};"
        f" {remedy}"
    )


def dead_letters_of(plan: Plan, quarantined: Failed) -> pa.Table | None:
    """Return the dead-letter table of unreadable files and quarantined units. Return None if there
    are none."""
    dead_letters = [broken_unit(file, None) for file in plan.unreadable]
    paths = {unit.name: unit.span.path for unit in plan.units}
    for unit, record in sorted(quarantined.items()):
        last = record["tries"][-1]
        entry: Broken = {"path": paths[unit], "error": last["error"], "message": last["message"]}
        dead_letters.append(broken_unit(entry, unit, record["stage"]))
    return pa.concat_tables(dead_letters) if dead_letters else None
