"""Options of `make compare`, without importing what it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from open_diht.common.command_line import Parser, refuse_wrong
from open_diht.common.spelling import spelled


def check(arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.eval.compare") -> None:
    """End the process if the arguments ask for help or are wrong; see `run_command`."""
    refuse_wrong(lambda: compare_parser(prog).parse_args(arguments))


def compare_parser(prog: str) -> Parser:
    """Return the parser of `make compare`."""
    parser = Parser(
        prog=prog,
        description=f"Reads the results of two runs of `{spelled('bench')}`, tests every task that both measured by "
        "the same rules on the same items, if there are enough, and writes compare.json, .md and .html.",
    )
    parser.add_argument("a", metavar="A", help=f"results of the first model (a folder of `{spelled('bench')}`)")
    parser.add_argument("b", metavar="B", help="results of the second")
    parser.add_argument("--output", type=Path, help="folder for compare.json, .md and .html (default: B's)")
    return parser
