"""Options of `open-diht concepts`: those of both halves in one command line."""

import argparse
from collections.abc import Sequence

from open_diht.pipelines.options import parsed
from open_diht.pipelines.teachers.options import parser_of
from open_diht.trainer.head_options import add_heads, with_heads

HEADS = "head-"
"""Prefix of the names of options for heads. Both halves have a device and a batch size."""


def parse(arguments: Sequence[str] | None, prog: str, **defaults: str) -> argparse.Namespace:
    """Parse the command line. `settings` and `k` of the result are those of heads, `concepts` is
    their folder. Options with `defaults` are not required."""
    parser = parser_of(prog, **defaults)
    add_heads(parser.add_argument_group("of heads, which are trained afterwards"), HEADS)
    options = with_heads(parsed(parser, arguments), HEADS)
    options.concepts = options.output or f"{options.data.rstrip('/')}/concepts"
    return options
