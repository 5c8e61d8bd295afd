"""Options of `make concepts`, without importing what it runs; see `open_diht.pipelines.options`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from open_diht.common.command_line import Parser, add_fields, number
from open_diht.common.data_root import REFERENCE
from open_diht.common.devices import DeviceSettings
from open_diht.common.fields import Count, Positive, Range
from open_diht.common.spelling import spelled
from open_diht.pipelines.options import add_where, parsed
from open_diht.pipelines.teachers.teacher import DEFAULT, teacher_names

CONCEPTS = "concepts"
EMBEDDINGS = "embeddings"
"""Kinds of targets that a teacher gives."""
CROP_SCALE = 0.9, 1.0
Kept = Annotated[float, Range(above=0, at_most=1)]


@dataclass(frozen=True, kw_only=True)
class ConceptOptions:
    """Options of `make concepts` next to its settings."""

    output: str | None = None
    """Folder or URL of the results (default: DATA/concepts and DATA/embeddings)."""
    weights: str | None = None
    """File of the teacher's weights, which you download yourself; mind their license: those of
    swag-vit-h14 are CC-BY-NC-4.0."""
    crop_seed: Count = 0
    """Seed of drawn crops."""
    captions: Annotated[str, "NAME,..."] = "caption"
    """Captions of each image: caption, and text columns of the samples' .json."""


@dataclass(frozen=True, kw_only=True)
class ShardOptions(DeviceSettings):
    """The settings of a run over shards that the command line takes as they are."""

    max_bad_share: float = 0.05
    """Fraction of bad images above which the exit status is 1."""


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """The settings of vocabularies."""

    min_count: Positive | None = None
    """Rows that a concept needs to enter the vocabulary (default: a 50th of the kept rows, from 2
    to 100)."""
    max_size: Positive = 10_000
    """Largest vocabulary of a head."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """The settings of embeddings that the command line takes as they are."""

    crops: Positive = 1
    """Crops of each image; of one it is the center, more are drawn."""
    datacompdr: bool = False
    """Also write the embeddings as tars in the format of DataCompDR."""
    cosine: bool = False
    """Also write the cosine of each image and its caption, which select --soft teacher_cosine
    ranks by."""


def parse(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m open_diht.pipelines.teachers",
    **defaults: str,
) -> argparse.Namespace:
    """Parse the command line of this half of `make concepts`, see
    `open_diht.pipelines.options.parsed`."""
    return parsed(parser_of(prog, **defaults), arguments)


def parser_of(prog: str, **defaults: str) -> Parser:
    """Return the parser. Options with `defaults` are not required."""
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
    add_fields(parser, ConceptOptions, "output")
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
    add_fields(parser, ConceptOptions, "weights")
    add_fields(parser, VocabularyOptions)
    of_embeddings = parser.add_argument_group("of embeddings")
    add_fields(of_embeddings, EmbeddingOptions, "crops")
    add_fields(of_embeddings, ConceptOptions, "crop_seed")
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
    add_fields(of_embeddings, ConceptOptions, "captions")
    add_fields(of_embeddings, EmbeddingOptions, "datacompdr", "cosine")
    add_fields(parser, DeviceSettings)
    add_where(parser)
    add_fields(parser, ShardOptions, "max_bad_share")
    parser.add_script_options()
    parser.set_defaults(**defaults)
    return parser
