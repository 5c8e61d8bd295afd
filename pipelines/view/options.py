"""Options of `make view`, without importing what it runs; see `open_diht.pipelines.options`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from open_diht.common.command_line import Parser, add_fields
from open_diht.common.fields import Positive, Range
from open_diht.common.spelling import spelled

Port = Annotated[int, Range(at_least=0, at_most=65_535)]
ROWS = 20_000
"""Default maximum number of rows in memory."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Options of `make view` that have plain values."""

    preset: str | None = None
    """Initial thresholds, a name or a YAML file (default: the last finished run's; if none,
    paper)."""
    port: Port = 0
    """Port of the page; 0: a free one."""
    sample_rows: Positive = ROWS
    """Largest number of rows that thresholds are tried on."""


def parse(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m open_diht.pipelines.view",
    **defaults: str,
) -> argparse.Namespace:
    """Parse the command line of `make view`, by default that of this process. `defaults` may have
    `output`."""
    parser = Parser(prog, "Show the output of a filter run, finished or not, on a local web page.")
    parser.add_argument(
        "--output",
        default=defaults.get("output", "out/sample"),
        help=f"output folder of `{spelled('filter')}`",
    )
    add_fields(parser, ViewOptions)
    parser.add_plugins()
    return parser.parse_args(arguments)
