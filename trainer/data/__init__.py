"""Webdataset shards, or cached features, to batches: exact positions, deterministic order, counted errors. See
`loader` and `feature_loader`."""

from open_diht.trainer.data.base import Loader
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.data.errors import (
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
from open_diht.trainer.data.feature_loader import FeatureLoader
from open_diht.trainer.data.loader import ShardLoader
from open_diht.trainer.data.settings import DataSettings, Source, Split
from open_diht.trainer.data.shards import ShardFacts

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
