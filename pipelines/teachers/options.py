"""Options of `make concepts`, without importing what it runs; see `open_diht.pipelines.options`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Annotated

from open_diht.common.command_line import Parser, number
from open_diht.common.data_root import REFERENCE
from open_diht.common.devices import add_device_options
from open_diht.common.fields import Count, Positive, Range
from open_diht.common.spelling import spelled
from open_diht.pipelines.options import add_where, parsed
from open_diht.pipelines.teachers.teacher import DEFAULT, teacher_names

CONCEPTS = "concepts"
EMBEDDINGS = "embeddings"
"""Kinds of targets that a teacher gives."""
CROP_SCALE = 0.9, 1.0
Kept = Annotated[float, Range(above=0, at_most=1)]


def parse(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m open_diht.pipelines.teachers",
    **defaults: str,
) -> argparse.Namespace:
    """Parse the command line of `make concepts`, see `options.parsed`. Options with `defaults` are
    not required."""
    parser = Parser(
        prog=prog,
        description=(
            "Store a teacher's answers about the data: concepts of images, embeddings of images and"
            " captions."
        ),
    )
    parser.add_argument(
        "--data",
        required="data" not in defaults,
        help=f"output folder of `{spelled('filter')}`, or its URL",
    )
    parser.add_argument(
        "--output", help="folder or URL of the results (default: DATA/concepts and DATA/embeddings)"
    )
    parser.add_argument(
        "--teacher",
        help=(
            f"{', '.join(teacher_names())}, or a model as in timm:resnet50, torchvision:vit_b_16,"
            f" open_clip:ViT-B-32; all but {DEFAULT} (default) need --weights; a library's model"
            f" may have :FILE after it instead. Embeddings need texts: {REFERENCE} (default),"
            " open_clip:..., or local-dir:FOLDER"
        ),
    )
    parser.add_argument(
        "--store",
        choices=(CONCEPTS, EMBEDDINGS, f"{CONCEPTS},{EMBEDDINGS}"),
        default=CONCEPTS,
        metavar="KINDS",
        help=f"{CONCEPTS} (default), {EMBEDDINGS}, or both with a comma between them",
    )
    parser.add_argument(
        "--weights",
        help=(
            "file of the teacher's weights, which you download yourself; mind their license: those"
            " of swag-vit-h14 are CC-BY-NC-4.0"
        ),
    )
    parser.add_argument(
        "--min-count",
        type=number(Positive),
        help=(
            "rows that a concept needs to enter the vocabulary (default: a 50th of the kept rows,"
            " from 2 to 100)"
        ),
    )
    parser.add_argument(
        "--max-size",
        type=number(Positive),
        default=10_000,
        help="largest vocabulary of a head (default 10,000)",
    )
    of_embeddings = parser.add_argument_group("of embeddings")
    of_embeddings.add_argument(
        "--crops",
        type=number(Positive),
        default=1,
        help="crops of each image; 1 (default): the center, more are drawn",
    )
    of_embeddings.add_argument(
        "--crop-seed", type=number(Count), default=0, help="seed of drawn crops (default 0)"
    )
    of_embeddings.add_argument(
        "--crop-scale",
        type=number(Kept),
        nargs=2,
        default=CROP_SCALE,
        metavar=("LOW", "HIGH"),
        help=(
            "fraction of the area that a drawn crop keeps, as transform.crop_scale of the training"
            " (default 0.9 1)"
        ),
    )
    of_embeddings.add_argument(
        "--captions",
        default="caption",
        metavar="NAME,...",
        help="captions of each image: caption (default), and text columns of the samples' .json",
    )
    of_embeddings.add_argument(
        "--datacompdr",
        action="store_true",
        help="also write the embeddings as tars in the format of DataCompDR",
    )
    add_device_options(parser, "teacher", batch="--batch-size")
    add_where(parser)
    parser.add_argument(
        "--max-bad-share",
        type=float,
        default=0.05,
        help="fraction of bad images above which the exit status is 1 (0.05)",
    )
    parser.set_defaults(**defaults)
    return parsed(parser, arguments)
