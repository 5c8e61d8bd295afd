"""Run the arms of the claims, skipping those that have a result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from open_diht.common.command_line import OK, WrongUse, say
from study.data import Data, SetMissing
from study.page import write_pages
from study.rows import CLAIMS, Rows
from study.tables import TABLES, lines
from study.words import table_in_markdown, verdicts_in_words


def study(track: str, scale: str, claims: Sequence[str], data: Data, rows: Rows) -> int:
    """Run the unfinished arms of the claims, print the tables, write pages of results, and return
    the exit status. A claim that misses data is reported and ends there; arms that ran before keep
    their results."""
    for line in data.missing(track):
        say(line)
    for name in claims:
        try:
            run_claim(claim_module(name), track, scale, data, rows)
        except SetMissing as error:
            say(f"{name}: left out. {error}")
    for name, table in TABLES.items():
        if table.claim in claims and (found := lines(rows, table, track)):
            say(
                "\n".join(
                    ["", name, table_in_markdown(table, found), "", *verdicts_in_words(found)]
                )
            )
    if any(rows.read(claim) for claim in claims):
        make_pages(rows, rows.folder / "page")
    return OK


def make_pages(rows: Rows, docs: Path) -> int:
    """Write the documentation pages and return the exit status. Raises `WrongUse` if there are no
    results."""
    if not any(rows.read(claim) for claim in CLAIMS):
        raise WrongUse(f"{rows.folder} holds no results of the study; `make study` makes them")
    for path in write_pages(rows, docs):
        say(str(path))
    return OK


def claim_module(name: str) -> ModuleType:
    return import_module(f"study.claims.{name}")


def run_claim(claim: ModuleType, track: str, scale: str, data: Data, rows: Rows) -> None:
    """Run every arm of a claim that has no result yet, and pack the items."""
    arms = claim.arms(track, scale, data)
    todo = [arm for arm in arms if not rows.done(arm)]
    say(
        f"{claim.__name__.rpartition('.')[2]}: {len(arms)} arms, {len(arms) - len(todo)} of them"
        " done"
    )
    for arm in todo:
        started = time.perf_counter()
        metrics, items, notes = claim.run(arm, data)
        seconds = time.perf_counter() - started
        rows.write(arm, metrics, items, seconds, notes)
        say(f"  {arm.key}  {seconds:.1f} s")
    if arms:  # few-shot has none if all its sets are missing
        rows.pack(arms[0].claim)
