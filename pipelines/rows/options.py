"""Options of `make rows`, without importing what it runs; see `open_diht.pipelines.options`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from open_diht.common.command_line import Parser, add_fields
from open_diht.common.fields import Count, Range

Number = Annotated[float, Range()]


@dataclass(frozen=True, kw_only=True)
class RowsOptions:
    """Options of `make rows`. Those of the query have the names of an address of `make view`."""

    end: str | None = None
    """List rows that were kept, rejected, are in dead_letter or undecided (default: all)."""
    reason: str | None = None
    """Reason of rejection with --end rejected, or error with --end dead_letter."""
    caption: Annotated[str, "TEXT"] | None = None
    """Text in the caption."""
    read: Annotated[str, "TEXT"] | None = None
    """Text in a line read in the image."""
    complexity_low: Number | None = None
    """Smallest complexity."""
    complexity_high: Number | None = None
    """Largest complexity."""
    overlap_low: Number | None = None
    """Smallest overlap."""
    overlap_high: Number | None = None
    """Largest overlap."""
    column: Annotated[str, "NAME"] | None = None
    """Column of numbers that --values-low and --values-high bound."""
    values_low: Number | None = None
    """Smallest value of --column."""
    values_high: Number | None = None
    """Largest value of --column."""
    order: Annotated[str, "NAME"] | None = None
    """Order by complexity, overlap, action_score (the verifier's best score of an action),
    duplicate_similarity or a column of numbers, highest first (default: as stored)."""
    ascending: bool = False
    """Order from the lowest number."""
    limit: Count = 100
    """Most rows to print, 0 for all; with --order at most 100000."""
    json: bool = False
    """Print a JSON object for each row, on a line."""
    uids: bool = False
    """Print the uids alone. Rows without a uid, such as dead letters of whole files, are left
    out."""


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines.rows"
) -> argparse.Namespace:
    """Parse the command line of `make rows`, by default that of this process."""
    parser = Parser(prog, "Print the rows of an output that fit, as its page of rows lists them.")
    parser.add_output()
    add_fields(parser, RowsOptions)
    parser.add_plugins()
    return parser.parse_args(arguments)
