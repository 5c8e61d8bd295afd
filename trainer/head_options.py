"""Options of the torch half of `make concepts`. Imports no torch, so that they are checked before the other half."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields

from open_diht.common.command_line import Parser, WrongUse, refuse_wrong
from open_diht.common.spelling import spelled


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """Settings of the training of heads."""

    epochs: int = 10
    """Passes over the samples. The best one on the validation samples is kept."""
    min_steps: int = 50
    """About the fewest steps in all. On small data there are more passes than `epochs`, to reach it."""
    batch_size: int = 256
    """Samples per step."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW at the first step, which falls to zero as a cosine. Features are standardized first."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    repeat_threshold: float = 1e-3
    """Threshold t of the repeat factor: concepts in a smaller fraction of the samples are up-sampled. 0: none are."""
    holdout: float = 0.1
    """Fraction of the samples that is held out: about half selects the epoch, half is for reported metrics (see
    `samples.MOST_MEASURED`)."""
    seed: int = 0
    """Seed of the order and the repeats of the samples."""
    device: str = "cpu"
    """The torch device."""

    def __post_init__(self) -> None:
        for name in ("epochs", "min_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout {self.holdout} is not between 0 and 1")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.repeat_threshold < 0:
            raise ValueError("learning_rate must be above 0, weight_decay and repeat_threshold at least 0")


def check(arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.trainer.concepts") -> None:
    """End the process if the arguments ask for help or are wrong; see `run_command`."""
    refuse_wrong(lambda: head_options(prog, arguments))


def head_options(prog: str, arguments: Sequence[str] | None) -> tuple[argparse.Namespace, HeadSettings]:
    """Return the parsed options (of the process for None), and the settings among them. Raises `WrongUse`."""
    parser = Parser(prog=prog, description="Train teacher heads and make concept targets from stored features.")
    parser.add_argument("--concepts", required=True, help=f"folder or URL of `{spelled('concepts')}`")
    parser.add_argument(
        "--shard",
        help=f"shard of `{spelled('concepts')}`: the last shard to finish makes heads and targets, the others stop",
    )
    parser.add_argument("--k", type=int, default=10, help="concepts kept per image and head (10)")
    for field in fields(HeadSettings):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    options = parser.parse_args(arguments)
    if options.k < 1:
        raise WrongUse(f"--k {options.k}: it must be at least 1")
    try:
        return options, HeadSettings(**{field.name: getattr(options, field.name) for field in fields(HeadSettings)})
    except ValueError as error:
        raise WrongUse(str(error)) from error
