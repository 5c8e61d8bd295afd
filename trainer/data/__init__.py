"""Webdataset shards to batches: exact positions, deterministic order, counted errors. See `loader`."""

from trainer.data.batch import Batch
from trainer.data.errors import (
    BadSource,
    ConceptMismatch,
    DataError,
    Kind,
    LoaderStalled,
    ShardLost,
    ShardMismatch,
    ShardUnavailable,
    TooManyBad,
)
from trainer.data.loader import ShardLoader
from trainer.data.settings import DataSettings, Source, Split
from trainer.data.shards import ShardFacts

__all__ = [
    "BadSource",
    "Batch",
    "ConceptMismatch",
    "DataError",
    "DataSettings",
    "Kind",
    "LoaderStalled",
    "ShardFacts",
    "ShardLoader",
    "ShardLost",
    "ShardMismatch",
    "ShardUnavailable",
    "Source",
    "Split",
    "TooManyBad",
]
