"""Runs the claims: arm after arm, those with a result are skipped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from common.command_line import OK, Parser, WrongUse, exit_status, say
from study.data import Data, SetMissing
from study.rows import CLAIMS, Rows

SCALES = ("full", "quick", "tiny")


def main(arguments: Sequence[str] | None = None, prog: str = "python -m study") -> int:
    """Run the command line; returns the exit status. `prog` is what the command is called in its help."""
    parser = Parser(prog=prog, description="The paper's four claims in miniature.")
    parser.add_argument("--study", choices=SCALES, default="full", help="how much: full (default), quick or tiny")
    parser.add_argument("--claims", default=",".join(CLAIMS), help=f"comma-separated (default {','.join(CLAIMS)})")
    parser.add_argument("--data", default="out/study-data", help="folder of the sets (default out/study-data)")
    parser.add_argument("--output", default="out/study", help="folder of the results (default out/study)")

    def run() -> int:
        options = parser.parse_args(arguments)
        output = Path(options.output)
        return study(options.study, _claims(options.claims), Data(Path(options.data), output / "cache"), Rows(output))

    return exit_status(run, stopped="stopped; finished arms are kept, the same command goes on from there")


def study(scale: str, claims: Sequence[str], data: Data, rows: Rows) -> int:
    """Run what is not done of the claims at that scale. A claim whose data is not at hand is said, and left out."""
    for line in data.missing():
        say(line)
    for name in claims:
        try:
            run_claim(claim_module(name), scale, data, rows)
        except SetMissing as error:
            say(f"{name}: left out. {error}")
    return OK


def claim_module(name: str) -> ModuleType:
    """`study.claims.NAME`."""
    return import_module(f"study.claims.{name}")


def run_claim(claim: ModuleType, scale: str, data: Data, rows: Rows) -> None:
    """Every arm of a claim that has no result yet."""
    arms = claim.arms(scale, data)
    todo = [arm for arm in arms if not rows.done(arm)]
    say(f"{claim.__name__.rpartition('.')[2]}: {len(arms)} arms, {len(arms) - len(todo)} of them done")
    for arm in todo:
        started = time.perf_counter()
        metrics, items, notes = claim.run(arm, data)
        seconds = time.perf_counter() - started
        rows.write(arm, metrics, items, seconds, notes)
        say(f"  {arm.key}  {seconds:.1f} s")


def _claims(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in CLAIMS:
            raise WrongUse(f"claim {name!r} is unknown; there are {', '.join(CLAIMS)}")
    return names
