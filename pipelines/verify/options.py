"""Options of `make verify`, without importing what it runs; see `open_diht.pipelines.options`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from open_diht.common.command_line import Parser, number
from open_diht.common.fields import Count

ROWS = 2_000
"""Default number of sampled rows: 100 altered rows in 18,000 are then all missed once in 100,000
samples."""


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines.verify"
) -> argparse.Namespace:
    """Parse the command line of `make verify`, by default that of this process."""
    parser = Parser(
        prog,
        "Check an output against its records, its preset and its input. Nothing is written"
        " into it.",
    )
    parser.add_output()
    parser.add_argument(
        "--input",
        help="where the manifests are now: pattern, folder or file (default: as recorded)",
    )
    parser.add_argument(
        "--images-root",
        metavar="FOLDER",
        help="where the folder of the image paths is now (default: as recorded)",
    )
    parser.add_argument(
        "--sample",
        type=number(Count),
        default=ROWS,
        metavar="N",
        help=f"random rows to decide and read again, 0 for none (default {ROWS})",
    )
    parser.add_argument(
        "--seed", type=number(Count), default=0, metavar="N", help="seed of the sample (default 0)"
    )
    parser.add_plugins()
    parser.add_script_options("all that was found")
    return parser.parse_args(arguments)
