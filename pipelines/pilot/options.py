"""Options of `make pilot`, without importing the modules it runs; see
`open_diht.pipelines.options`."""

import argparse
from collections.abc import Sequence
from typing import Annotated

from open_diht.common.command_line import number
from open_diht.common.fields import Count, NotNegative, Positive, Range, Total
from open_diht.pipelines.options import command_parser, parsed_run

UNITS = 20
"""Default number of units to draw: with fewer, Student's quantile and chance make intervals much
wider; with more, the pilot takes longer and intervals shrink only with the square root."""

Price = Annotated[float, Range(above=0, at_most=1_000_000)]
"""Type of --price. The upper limit exceeds the price of a core-hour in any currency, and keeps sums
finite."""


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines.pilot"
) -> argparse.Namespace:
    """Parse the command line of `make pilot`, see `options.parsed_run`."""
    parser = command_parser(
        prog,
        "Filter a random sample of units, and forecast the core-hours and bytes of the whole data"
        " set.",
        "the forecast",
    )
    pilot = parser.add_argument_group("the sample")
    pilot.add_argument(
        "--units",
        type=number(Count),
        help=f"units to draw (default {UNITS}, or all if there are fewer)",
    )
    pilot.add_argument(
        "--share",
        type=number(NotNegative),
        help="fraction of the data to draw, instead of a number of units",
    )
    pilot.add_argument("--seed", type=number(Count), default=0, help="seed of the draw (default 0)")
    pilot.add_argument(
        "--probe",
        type=number(Positive),
        metavar="N",
        help=(
            "ask so many random addresses of the sample whether they still lead to an image; the"
            " first kilobyte of each is requested, and nothing stored"
        ),
    )
    run = parser.add_argument_group("the run to forecast")
    run.add_argument(
        "--for-rows",
        type=number(Total),
        metavar="N",
        help="rows of the run, if the input is only a part of them (default: those of the input)",
    )
    run.add_argument(
        "--cores",
        type=number(Positive),
        metavar="N",
        help="cores of the run, to forecast its hours",
    )
    run.add_argument(
        "--price",
        type=number(Price),
        metavar="X",
        help="price of a core for an hour, in any currency, to forecast what the run costs",
    )
    return parsed_run(parser, arguments)
