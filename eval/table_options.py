"""Command line of `open-diht table`, parsed before libraries load."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from open_diht.common.command_line import Parser
from open_diht.common.spelling import spelled

FORMATS = ("markdown", "csv", "latex", "html")


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.eval.table"
) -> argparse.Namespace:
    """Parse the command line, by default that of this process."""
    parser = Parser(
        prog,
        "Put the main number of every task that one of several models has into one table, then the"
        " numbers over several tasks. Nothing is bold:"
        f" `{spelled('compare')}` tests whether two models differ.",
    )
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="OUTPUT",
        help=f"results of a model (`{spelled('bench')}`)",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help=f"{', '.join(FORMATS)} (default: {FORMATS[0]})",
    )
    return parser.parse_args(arguments)
