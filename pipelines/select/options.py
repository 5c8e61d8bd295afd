"""Options of `make select`, without importing what it runs; see `open_diht.pipelines.options`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from open_diht.common.command_line import Parser, add_fields, number
from open_diht.common.fields import Above0, Count, Positive
from open_diht.common.spelling import spelled
from open_diht.pipelines.select.repeats import DELAYS


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """Options of `make select` that have plain values."""

    cap: Above0 = 12
    """Most readings of a row."""
    by: Annotated[str, "COLUMN[=WEIGHT],..."] | None = None
    """Rank the rows by these columns of kept/ and rejected/, highest first, in place of the
    decisions; the best, as many as were kept, count as kept."""
    soft: Annotated[str, "COLUMN[:STRENGTH],..."] | None = None
    """Read all rows, with weights by their ranks in these columns in place of delays: a column of
    numbers, kept (the decision) or teacher_cosine (default strength: 6 for up to 8 samples per
    row, then 9)."""
    seed: Count = 0
    """With --soft, decides which rows have fractions of readings rounded up."""
    rows: Literal["kept", "all"] | None = None
    """Rows to choose from; all needs a training that reads rejected rows too (default: kept where
    OUTPUT has shards of its own, else all)."""


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines.select"
) -> argparse.Namespace:
    """Parse the command line of `make select`, by default that of this process."""
    parser = Parser(
        prog, "Choose rows of a filter run, and how often a training of n samples reads each."
    )
    data = parser.first_group("input and output")
    data.add_argument(
        "--output",
        default="out/sample",
        help=f"output of `{spelled('filter')}` (default out/sample)",
    )
    parser.add_argument(
        "--samples", type=number(Positive), required=True, help="samples that the training will see"
    )
    add_fields(parser, SelectOptions, "cap", "by")
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
    add_fields(parser, SelectOptions, "soft", "seed", "rows")
    parser.add_script_options("the content of selection.json")
    return parser.parse_args(arguments)
