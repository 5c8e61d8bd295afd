"""What went wrong in a run that came to its end: lines for a person; with any, the status for a script is 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from common.naming import counted
from pipelines.driver.funnel import FunnelRecord
from pipelines.engine.work import Work
from pipelines.manifests import Broken
from pipelines.plan import Plan
from pipelines.stages.decide import broken_unit


def errors_of(work: Work, funnel: FunnelRecord | None, max_dead_share: float) -> tuple[str, ...]:
    """Says of input that changed, units that are set aside, files that could not be read to their end, and of more dead
    letters than `max_dead_share` of the rows. `funnel` is None where the run did not come to that."""
    found = [*_changed(work), *_set_aside(work)]
    if funnel is not None:
        found += [*_unread(funnel), *_dead(funnel, max_dead_share)]
    return tuple(found)


def _changed(work: Work) -> list[str]:
    given_up = {unit.span.path for unit in work.plan.units if unit.name in work.set_aside}
    return [
        f"{path} {what}: "
        + ("none of its rows are in the results" if path in given_up else "the results are of what it held before")
        + ". Where it is put back as it was, the same command makes its units anew; for what it holds now choose "
        "another OUTPUT"
        for path, what in work.changed.items()
    ]


def _set_aside(work: Work) -> list[str]:
    paths = {unit.name: unit.span.path for unit in work.plan.units}
    failed = {unit: record for unit, record in work.set_aside.items() if paths[unit] not in work.changed}
    if not failed:
        return []
    unit, record = next(iter(failed.items()))
    last = record["tries"][-1]
    return [
        f"failed and set aside: {counted(len(failed), 'unit')}, first {unit} in stage {record['stage']}, "
        f"{counted(len(record['tries']), 'time')} ({last['error']}: {last['message']}); all about it: "
        f"{work.layout.failed(record['stage'], record['unit'])}. The same command tries them again"
    ]


def _unread(funnel: FunnelRecord) -> list[str]:
    unread = funnel["dead_letter"]["units"] - len(funnel["set_aside"])
    if not unread:
        return []
    what = funnel["dead_letter"]["first"]
    return [
        f"{unread:,} of the files and units could not be read to their end ({what}); mend or leave out the file and "
        "choose another OUTPUT (all of them: dead_letter/)"
    ]


def _dead(funnel: FunnelRecord, max_dead_share: float) -> list[str]:
    rows = funnel["dead_letter"]["rows"]
    share = rows / funnel["rows_in"] if funnel["rows_in"] else 0.0
    if share <= max_dead_share:
        return []
    return [
        f"dead letters: {counted(rows, 'row')} ({share:.1%}), more than the allowed {max_dead_share:.1%}; see "
        "dead_letter/, or allow more with --max-dead-share"
    ]


def dead_letters_of(plan: Plan, set_aside: Mapping[str, Mapping[str, Any]]) -> pa.Table | None:
    """Dead letters of the files that could not be opened at all, and of the units that are set aside; None where there
    are none."""
    dead_letters = [broken_unit(file, None) for file in plan.unreadable]
    paths = {unit.name: unit.span.path for unit in plan.units}
    for unit, record in sorted(set_aside.items()):
        last = record["tries"][-1]
        entry: Broken = {"path": paths[unit], "error": last["error"], "message": last["message"]}
        dead_letters.append(broken_unit(entry, unit, record["stage"]))
    return pa.concat_tables(dead_letters) if dead_letters else None
