"""Options of `make compare`, without importing what it runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_diht.common.command_line import Parser
from open_diht.common.spelling import spelled


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.eval.compare"
) -> argparse.Namespace:
    """Parse the command line of `make compare`, by default that of this process."""
    parser = Parser(
        prog=prog,
        description=(
            f"Reads the results of two runs of `{spelled('bench')}`, tests every task that both"
            " measured by the same rules on the same items, if there are enough, and writes"
            " compare.json, .md and .html."
        ),
    )
    parser.add_argument(
        "a", metavar="A", help=f"results of the first model (a folder of `{spelled('bench')}`)"
    )
    parser.add_argument("b", metavar="B", help="results of the second")
    parser.add_argument(
        "--output", type=Path, help="folder for compare.json, .md and .html (default: B's)"
    )
    parser.add_script_options("the content of compare.json")
    return parser.parse_args(arguments)
