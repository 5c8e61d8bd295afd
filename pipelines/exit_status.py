"""How a run ended, as a line for a person and a status for a script."""

from __future__ import annotations

from typing import Any

from pipelines.work import Work


def exit_status(work: Work, funnel: dict[str, Any] | None, max_dead_share: float) -> int:
    """0: all is well. 1: units are set aside, files could not be read to their end, or more rows than `max_dead_share`
    of them are dead letters; each is said. `funnel` is None where the run did not come to that."""
    status = 0
    if work.set_aside:
        unit, record = next(iter(work.set_aside.items()))
        last = record["tries"][-1]
        work.say(
            f"error: {len(work.set_aside)} units failed {len(record['tries'])} times each and are set aside, "
            f"first {unit} in stage {record['stage']} ({last['error']}: {last['message']}); all about it: "
            f"{work.layout.failed(record['stage'], record['unit'])}. The same command tries them again"
        )
        status = 1
    if funnel is None:
        return status
    dead = funnel["dead_letter"]
    share = dead["rows"] / funnel["rows_in"] if funnel["rows_in"] else 0.0
    unread = dead["units"] - len(work.set_aside)
    if unread:
        first = next(iter(work.plan.unreadable), None)
        what = f"{first['path']}: {first['message']}" if first else "see dead_letter/"
        work.say(
            f"error: {unread} files or units could not be read to their end ({what}); "
            "mend or leave out the file and choose another OUTPUT"
        )
        status = 1
    if share > max_dead_share:
        work.say(
            f"error: {dead['rows']:,} rows ({share:.1%}) are dead letters, more than the allowed "
            f"{max_dead_share:.1%}; see dead_letter/, or "
            "allow more with --max-dead-share"
        )
        status = 1
    return status
