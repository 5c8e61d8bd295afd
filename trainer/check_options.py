"""Command line of `open-diht check-shards`, parsed before libraries load."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from open_diht.common.command_line import Parser, add_fields
from open_diht.common.fields import Count, Positive, Share
from open_diht.common.spelling import spelled


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of `open-diht check-shards` next to the paths."""

    index_only: bool = False
    """Do not decode images."""
    workers: Count = 2
    """Processes."""
    max_bad_share: Share = 0.01
    """Fraction of bad samples that is allowed."""
    max_pixels: Positive | None = None
    """Largest accepted width x height (default: that of data.max_pixels of a training)."""


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.trainer.data"
) -> argparse.Namespace:
    """Parse the command line, by default that of this process."""
    parser = Parser(prog=prog, description="Check shards for errors.")
    parser.add_argument(
        "paths",
        nargs="+",
        help=f"output folders of `{spelled('filter')}`, folders of tars, globs, URLs",
    )
    add_fields(parser, CheckOptions)
    parser.add_script_options("the counts of each path")
    return parser.parse_args(arguments)
