"""Options of `make select`, without importing what it runs; see `open_diht.pipelines.options`."""

import argparse
from collections.abc import Sequence

from open_diht.common.command_line import Parser, number
from open_diht.common.fields import Above0, Positive
from open_diht.common.spelling import spelled
from open_diht.pipelines.select.repeats import DELAYS

CAP = 12
"""Default for the most readings of a row."""


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines.select"
) -> argparse.Namespace:
    """Parse the command line of `make select`, by default that of this process."""
    parser = Parser(
        prog, "Choose rows of a filter run, and how often a training of n samples reads each."
    )
    parser.add_argument(
        "--output",
        default="out/sample",
        help=f"output of `{spelled('filter')}` (default out/sample)",
    )
    parser.add_argument(
        "--samples", type=number(Positive), required=True, help="samples that the training will see"
    )
    parser.add_argument(
        "--cap", type=number(Above0), default=CAP, help=f"most readings of a row (default {CAP})"
    )
    parser.add_argument(
        "--by",
        metavar="COLUMN[=WEIGHT],...",
        help=(
            "rank the rows by these columns of kept/ and rejected/, highest first, in place of the"
            " decisions; the best, as many as were kept, count as kept"
        ),
    )
    parser.add_argument(
        "--delay",
        metavar="REASON=N",
        action="append",
        default=[],
        help=(
            "readings of the kept rows before the first one of rows rejected for this reason,"
            " which may be one that is never chosen otherwise (default"
            f" {', '.join(f'{name}={value:g}' for name, value in DELAYS.items())})"
        ),
    )
    parser.add_argument(
        "--rows",
        choices=("kept", "all"),
        help=(
            "rows to choose from; all needs a training that reads rejected rows too (default: kept"
            " where OUTPUT has shards of its own, else all)"
        ),
    )
    return parser.parse_args(arguments)
