"""Options of `make pilot`, without importing the modules it runs; see `open_diht.pipelines.options`."""

from __future__ import annotations

from collections.abc import Sequence

from open_diht.common.command_line import Parser, number
from open_diht.common.devices import add_device_options
from open_diht.common.fields import Count, NotNegative, Positive, Share
from open_diht.common.spelling import spelled
from open_diht.pipelines.options import check_by, command_parser

UNITS = 20
"""Default number of units to draw."""
IMAGES = 256
"""Default number of images of the whole sample that a teacher is measured on, rounded up to whole batches of a unit."""


def check(arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines.pilot") -> None:
    """End the process if the arguments of `make pilot` ask for help or `parse` refuses them; see `run_command`.

    Args:
        arguments: the command-line arguments; None: those of this process.
    """
    check_by(pilot_parser(prog), arguments)


def pilot_parser(prog: str) -> Parser:
    """Return the parser of `make pilot`."""
    parser = command_parser(
        prog, "Filter a random sample of units, and forecast the time and cost of the whole data set."
    )
    pilot = parser.add_argument_group("the sample")
    pilot.add_argument(
        "--units", type=number(Count), help=f"units to draw (default {UNITS}, or all if there are fewer)"
    )
    pilot.add_argument(
        "--share", type=number(NotNegative), help="fraction of the data to draw, instead of a number of units"
    )
    pilot.add_argument("--seed", type=number(Count), default=0, help="seed of the draw (default 0)")
    pilot.add_argument("--forecast-workers", help="numbers of workers to forecast hours for, comma-separated")
    prices = parser.add_argument_group("prices, in any one currency (default 0: no cost is reported)")
    for name, dest, what in (
        ("--price-core-hour", "core_hour", "price of a core for an hour"),
        ("--price-gpu-hour", "gpu_hour", "price of a GPU for an hour"),
        ("--price-gb-egress", "gb_transfer", "price of a GB of downloaded images"),
        ("--price-gb-month", "gb_month", "price of a GB stored for a month"),
    ):
        prices.add_argument(name, dest=dest, type=number(NotNegative), default=0.0, help=what)
    prices.add_argument("--months", type=number(NotNegative), default=1.0, help="months of storage (default 1)")
    concepts = parser.add_argument_group(f"the cost of `{spelled('concepts')}`, if a teacher is named")
    concepts.add_argument(
        "--teacher", help=f"teacher of `{spelled('concepts')}`, measured on images of the sample's shards"
    )
    concepts.add_argument("--weights", help="file of the teacher's weights")
    concepts.add_argument(
        "--teacher-images", type=number(Positive), default=IMAGES, help=f"images to measure it on (default {IMAGES})"
    )
    add_device_options(concepts, "teacher", batch="--batch-size")
    assumed = parser.add_argument_group("values that a pilot without images cannot measure (no default)")
    assumed.add_argument("--image-bytes", type=number(NotNegative), help="bytes of an image")
    assumed.add_argument("--seconds-per-image", type=number(NotNegative), help="core-seconds of OCR per image")
    assumed.add_argument("--image-keep-rate", type=number(Share), help="fraction of the requested images that is kept")
    return parser
