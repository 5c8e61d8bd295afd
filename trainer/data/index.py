"""The index of a shard (`open_diht.common.shard_index`) with the errors and the words of the training."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from open_diht.common import shard_index
from open_diht.common.shard_index import BadIndex, ShardIndex
from open_diht.trainer.data.errors import ShardMismatch


def load(path: Path | IO[bytes]) -> ShardIndex:
    """A kept index. Raises `ShardMismatch` where it has gone or cannot be read."""
    try:
        return shard_index.load(path)
    except BadIndex as error:
        raise ShardMismatch(str(error)) from error
