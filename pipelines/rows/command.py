"""`make rows`: print the rows of an output that fit a query, as `make view` lists them.

    open-diht rows /data/cat --end rejected --reason action --order action_score --limit 100

Nothing is written into the output. Exit status: 0 success; 1 a file or a store cannot be read, or
rows are missing; 2 wrong use.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterable
from itertools import islice

import pyarrow as pa

from open_diht.common.command_line import OK, WrongUse, command, refuse_empty, say
from open_diht.common.html.text import plain
from open_diht.common.naming import counted
from open_diht.common.plugins import PluginError, load_plugin
from open_diht.common.spelling import spelled
from open_diht.common.stores import in_words, translated
from open_diht.filters.presets import BadPreset
from open_diht.pipelines.manifests.outputs import root_of
from open_diht.pipelines.output import Output
from open_diht.pipelines.rows.options import parse
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.store.storage import SEE_TO_OUTPUT, store_errors
from open_diht.pipelines.view.query import (
    BOUNDS,
    MOST_RANKED,
    SHOWN,
    BadAddress,
    Hit,
    choices_of,
    count_of,
    end_of,
    every,
    query_of,
    ranked,
    uids,
)

_BOUNDS = tuple(f"{name}_{end}" for name in BOUNDS for end in ("low", "high"))
_PARAMETERS = ("caption", "read", "column", "order", "ascending", *_BOUNDS)
_BELONG = {
    "reason": "end",
    "ascending": "order",
    "values_low": "column",
    "values_high": "column",
}
"""Options that mean nothing without another."""


def _unread(error: Exception) -> RunFailed | None:
    """Return the message about a file that is missing or damaged, or cannot be opened."""
    if not isinstance(error, OSError | pa.ArrowException):
        return None
    return RunFailed(
        f"a file of the output cannot be read ({in_words(error)}); if a run is working there, try"
        f" again, and else find the damage with `{spelled('verify')}`"
    )


def _rows(options: argparse.Namespace) -> int:
    refuse_empty(options, "output", "end", "reason", "column", "order")
    if options.json and options.uids:
        raise WrongUse("--json and --uids are two forms of one list; give one of them")
    given = {
        name: value
        for name, value in vars(options).items()
        if value is not None and value is not False
    }
    for name, owner in _BELONG.items():
        if name in given and owner not in given:
            raise WrongUse(f"--{name.replace('_', '-')} belongs to --{owner}; give that too")
    if options.order and not 0 < options.limit <= MOST_RANKED:
        raise WrongUse(
            f"--limit {options.limit} does not go with --order, which holds the rows that it prints"
            f" in memory; give --limit 1 to {MOST_RANKED}"
        )
    for name in options.plugin:
        load_plugin(name)
    root = root_of(options.output)
    with store_errors(root, WrongUse, SEE_TO_OUTPUT):
        output = Output(root)
    with store_errors(root, RunFailed, SEE_TO_OUTPUT), translated(_unread):
        choices = choices_of(output, count_of(output))
        asked = {name: str(value) for name, value in given.items() if name in _PARAMETERS}
        asked["end"] = end_of(options.end or "", options.reason or "")
        query = query_of(asked, choices)
        columns = ["uid"] if options.uids else SHOWN
        page = ranked(output, query, rows=options.limit, columns=columns) if query.order else None
        hits = page.hits if page else every(output, query)
        numbers = [query.order] if query.order else ["complexity", "overlap"]
        lines: Iterable[str] = (_of_table(hit, numbers) for hit in hits)
        if options.json:
            lines = map(_as_json, hits)
        elif options.uids and page:
            lines = (plain(hit.row["uid"]) for hit in hits if hit.row["uid"])
        elif options.uids:
            lines = (plain(uid) for some in uids(output, query) for uid in some)
        else:
            say(_as_line("uid", "end or reason", numbers, "caption"))
        shown = 0
        for line in islice(lines, options.limit or None):
            say(line)
            shown += 1
        total = choices.rows(query)
        found = page.fit if page else shown if shown < (options.limit or math.inf) else None
        if not (options.json or options.uids):
            known = total if found is None else found
            say(counted(shown, "row") + (f" of {known:,}" if known is not None else ""))
        # Dead letters of whole files have no uid.
        sure = choices.sure and not (options.uids and query.end == "dead_letter")
        if sure and None not in (found, total) and found != total:
            raise RunFailed(
                f"{root} has {found:,} such rows and not the {total:,} that its run has counted; if"
                f" a run is working there, try again, and else find the damage with"
                f" `{spelled('verify')}`"
            )
    return OK


main = command(
    parse, _rows, wrong_use=(BadPreset, PluginError, BadAddress), failed=(RunFailed,), stopped=None
)


def _as_json(hit: Hit) -> str:
    row = {"end": hit.place.end, "place": str(hit.place), **hit.row}
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    # Everything but ASCII is escaped, so that no caption has codes of a terminal.
    return json.dumps(finite)


def _of_table(hit: Hit, numbers: list[str]) -> str:
    row = hit.row
    values = [row.get(name) for name in numbers]
    shown = [
        "" if one is None else f"{one:.4g}" if isinstance(one, float) else str(one)
        for one in values
    ]
    reason = row.get("reason") or row.get("error") or hit.place.end
    return _as_line(row["uid"] or "", reason, shown, row["caption"] or "")


def _as_line(uid: str, reason: str, numbers: list[str], caption: str) -> str:
    """Return a line of the table without hidden characters, as wide as the terminal if its caption
    has 40 characters then."""
    cells = [plain(uid, 32).ljust(32), plain(reason, 18).ljust(18)]
    cells += [plain(number, 12).rjust(12) for number in numbers]
    known = "  ".join(cells)
    width = shutil.get_terminal_size(fallback=(160, 24)).columns
    return f"{known}  {plain(caption, max(40, width - len(known) - 2))}"
