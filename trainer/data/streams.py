"""How many stretches of a source are read side by side, and how many bytes of it are in use meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence

from open_diht.trainer.data.shards import OpenSource
from open_diht.trainer.data.store import is_remote

MOST = 64
"""A worker keeps the shards open that are in use, with their indexes in memory: about three a stream at the default
window."""
_WINDOWS = 2  # the one that is read, and the next one, which is fetched meanwhile


def default_streams(sources: Sequence[OpenSource], window: int, cache_bytes: int) -> int:
    """A power of two: at most `MOST`, and the shards of the largest source, each of which then has about a stream of
    its own; as many of them as `cache_bytes` hold two windows of, where shards are remote."""
    if not window:
        return 1  # in the order of the shards
    shards = max(sum(shard.samples > 0 for shard in source.shards) for source in sources)
    streams = min(MOST, 1 << (shards.bit_length() - 1))
    while streams > 1 and bytes_in_use(sources, window, streams) > cache_bytes:
        streams //= 2
    return streams


def shards_in_use(sources: Sequence[OpenSource], window: int, streams: int, share: float = 1.0) -> int:
    """Return how many shards the windows touch that are read at a time.

    Args:
        sources: what is read.
        window: samples of a window.
        streams: ranges of a source that are read side by side.
        share: fraction of the streams that the caller reads.

    Returns:
        The shards of all sources together.
    """
    total, streams = 0, streams if window else 1
    for source in sources:
        sizes = [shard.samples for shard in source.shards if shard.samples]
        if sizes:
            per_stream = math.ceil(min(window, sum(sizes) / streams) * len(sizes) / sum(sizes)) + 1
            total += min(len(sizes), math.ceil(share * streams) * per_stream)
    return total


def bytes_in_use(sources: Sequence[OpenSource], window: int, streams: int, share: float = 1.0) -> int:
    """Of remote shards, while a window of every stream is read and the next one fetched; `share` of the streams."""
    total = 0.0
    for source in sources:
        held = [shard for shard in source.shards if shard.samples and not shard.left_out and is_remote(shard.file.url)]
        samples, size = sum(shard.samples for shard in held), sum(shard.file.bytes or 0 for shard in held)
        if held:
            per_stream = min(window, samples / streams) + samples / len(held)  # it begins and ends inside a shard
            total += size * min(1.0, _WINDOWS * share * streams * per_stream / samples)
    return int(total)
