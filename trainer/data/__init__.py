"""Webdataset shards, or cached features, to batches: exact positions, deterministic order, counted errors. See
`loader` and `feature_loader`."""

from trainer.data.base import Loader
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
from trainer.data.feature_loader import FeatureLoader
from trainer.data.loader import ShardLoader
from trainer.data.settings import DataSettings, Source, Split
from trainer.data.shards import ShardFacts

__all__ = [
    "BadSource",
    "Batch",
    "ConceptMismatch",
    "DataError",
    "DataSettings",
    "FeatureLoader",
    "Kind",
    "Loader",
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
