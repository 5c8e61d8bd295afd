"""Options of the torch half of `make concepts`. This module does not import torch, so that the
options are checked before the other half runs."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from open_diht.common.command_line import Parser, WrongUse, add_fields, given_fields
from open_diht.common.fields import Above0, NotNegative, Positive, Range, check_fields
from open_diht.common.spelling import spelled


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """Settings of the training of heads."""

    epochs: Positive = 10
    """Passes over the samples. The best one on the validation samples is kept."""
    min_steps: Positive = 50
    """Approximate minimum number of steps in all. On small data, more passes than `epochs` are made
    to reach it."""
    batch_size: Positive = 256
    """Samples per step."""
    learning_rate: Above0 = 1e-3
    """Learning rate of AdamW at the first step, which falls to zero as a cosine. Features are
    standardized first."""
    weight_decay: NotNegative = 0.05
    """Weight decay of AdamW."""
    repeat_threshold: NotNegative = 1e-3
    """Threshold t of the repeat factor: concepts in a smaller fraction of the samples are
    up-sampled. 0: none are."""
    holdout: Annotated[float, Range(above=0, below=1)] = 0.1
    """Fraction of the samples that is held out: about half selects the epoch, half is for reported
    metrics. See `samples.MOST_MEASURED`."""
    seed: int = 0
    """Seed of the order and the repeats of the samples."""
    device: str = "cpu"
    """The torch device."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """Settings of the targets that heads make."""

    k: Positive = 10
    """Concepts kept per image and head."""


def add_heads(parser: argparse.ArgumentParser | argparse._ArgumentGroup, prefix: str = "") -> None:
    """Add an option for each setting of heads and their targets. Names begin with `prefix`."""
    add_fields(parser, TargetSettings, prefix=prefix)
    add_fields(parser, HeadSettings, prefix=prefix)


def with_heads(options: argparse.Namespace, prefix: str = "") -> argparse.Namespace:
    """Return the options with `settings` and `k`, from what `add_heads` has added. Raises
    `WrongUse`."""
    try:
        options.settings = HeadSettings(**given_fields(options, HeadSettings, prefix))
    except ValueError as error:
        raise WrongUse(str(error)) from error
    options.k = given_fields(options, TargetSettings, prefix)["k"]
    return options


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.trainer.concepts"
) -> argparse.Namespace:
    """Parse the command line, by default that of this process. `settings` of the result are the
    `HeadSettings`."""
    parser = Parser(
        prog=prog, description="Train teacher heads and make concept targets from stored features."
    )
    parser.add_argument(
        "--concepts", required=True, help=f"folder or URL of `{spelled('concepts')}`"
    )
    parser.add_argument(
        "--shard",
        help=(
            f"shard of `{spelled('concepts')}`: the last shard to finish makes heads and targets,"
            " the others stop"
        ),
    )
    add_heads(parser)
    return with_heads(parser.parse_args(arguments))
