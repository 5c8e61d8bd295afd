"""Run the arms of the claims, skipping those that have a result."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from open_diht.common.command_line import FAILED, OK, WrongUse, say
from study.data import Data, SetMissing
from study.page import write_pages
from study.rows import CLAIMS, TRACKS, Rows
from study.tables import TABLES, Line, lines
from study.words import (
    against,
    change,
    pool_in_words,
    signed,
    table_in_markdown,
    test_set,
    verdicts_in_words,
)


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
    _check_results(rows)
    for path in write_pages(rows, docs):
        say(str(path))
    return OK


def compare_rows(rows: Rows, known: Rows) -> int:
    """Print which changes of the rows lie outside the intervals of known ones, and return the exit
    status: FAILED if there is any. Raises `WrongUse` if no comparison is in both, or both are one
    folder."""
    if rows.folder.resolve() == known.folder.resolve():
        raise WrongUse(f"--compare and --output are both {rows.folder}; name your rows as --output")
    _check_results(rows)
    _check_results(known)
    within = outside = 0
    for track, (name, table) in itertools.product(TRACKS, TABLES.items()):
        if not (found := lines(rows, table, track)):
            continue
        of_known = {_where(line): line for line in lines(known, table, track)}
        for line in found:
            there = of_known.get(_where(line))
            for mine, theirs in zip(line.found, there.found if there else (), strict=False):
                if theirs.low <= mine.difference <= theirs.high:
                    within += 1
                    continue
                outside += 1
                pool = pool_in_words(line.pool, line.pairs)
                say(
                    f"{name}: {against(line)}, {pool}, {line.budget:,}, on {test_set(line)}:"
                    f" {mine.measure.name} {change(mine)}, not in {signed(theirs.low)} to"
                    f" {signed(theirs.high)}"
                )
    if not within + outside:
        raise WrongUse(
            f"no comparison is in both {rows.folder} and {known.folder}: a claim needs three seeds"
            " of both arms; run it to its end"
        )
    say(f"{within} of {within + outside} changes lie within the intervals of {known.folder}")
    return FAILED if outside else OK


def _check_results(rows: Rows) -> None:
    if not any(rows.read(claim) for claim in CLAIMS):
        raise WrongUse(f"{rows.folder} holds no results of the study; `make study` makes them")


def _where(line: Line) -> tuple[str, str, int, str, str]:
    return line.items, line.pool, line.budget, line.b, line.a


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
