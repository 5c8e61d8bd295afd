"""Load batches from webdataset shards (`loader`), in order and from any position."""

from open_diht.trainer.data.batch import Batch
from open_diht.trainer.data.errors import (
    BadSource,
    LoaderStalled,
    ShardMismatch,
    ShardUnavailable,
    TooManyBad,
)
from open_diht.trainer.data.loader import Loader, ShardLoader
from open_diht.trainer.data.order import EpochOrder, RankBatches
from open_diht.trainer.data.settings import DataSettings, Source, Split
from open_diht.trainer.data.shards import ShardFacts
from open_diht.trainer.errors import ConceptMismatch, DataError

__all__ = [
    "BadSource",
    "Batch",
    "ConceptMismatch",
    "DataError",
    "DataSettings",
    "EpochOrder",
    "Loader",
    "LoaderStalled",
    "RankBatches",
    "ShardFacts",
    "ShardLoader",
    "ShardMismatch",
    "ShardUnavailable",
    "Source",
    "Split",
    "TooManyBad",
]
