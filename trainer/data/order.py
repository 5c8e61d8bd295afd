"""The order of an epoch as arithmetic: any position can be computed without those before it.

That is what makes resume exact and cheap, and independent of the number of workers and ranks. Nothing of the size of
the data is held: shard sizes, and the permutations of the windows now in use.

- A *pass* is one permutation of a source: its shards are permuted and laid end to end; the sequence is cut into
  `streams` equal ranges, each range into windows of `window` samples, each window is permuted.
- The draws of a pass go round the streams: draw j takes the next sample of stream j mod streams.
- Several sources are interleaved evenly by counts, see `interleave`.

Permutations are the order of raw bits of PCG64, which NumPy keeps stable (its `permutation` may change).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def permutation(n: int, *seed: int) -> Integers:
    """Return a permutation of 0 .. n-1, a function of `seed` alone."""
    bits = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


def mixed(value: int) -> int:
    """Return a well-spread 63-bit number (SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1


@dataclass(frozen=True, kw_only=True)
class RankBatches:
    """The part of each global batch that a rank reads.

    Raises:
        ValueError: there is no such batch size, rank or seed.
    """

    batch_size: int
    """Samples of a batch on each rank."""
    rank: int
    world: int
    seed: int
    """Of order and augmentation."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.rank < self.world:
            raise ValueError(
                f"batch size {self.batch_size}, rank {self.rank} of {self.world}: need batch size >= 1, "
                "0 <= rank < world"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is not in [0, 2^63)")

    @property
    def whole(self) -> int:
        """Samples of a global batch."""
        return self.batch_size * self.world

    def rows(self, number: int, samples: int) -> tuple[int, int, slice]:
        """Return where global batch `number` begins and ends in an epoch of `samples`, and the rank's rows of it."""
        first = number * self.whole
        size = min(self.whole, samples - first)
        return first, first + size, slice(size * self.rank // self.world, size * (self.rank + 1) // self.world)


class _Recent:
    """The last few values made."""

    def __init__(self, most: int):
        self._most = most
        self._values: OrderedDict[Hashable, Integers] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Integers]) -> Integers:
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > self._most:
                self._values.popitem(last=False)
        return self._values[key]


class SourceOrder:
    """The infinite sequence of draws from one source: pass after pass, every sample once in each.

    Args:
        sizes: samples of each shard.
        seed: of everything.
        window: samples of a shuffle window; 0: shards and samples in their order.
        streams: ranges of a pass that are read side by side.
    """

    def __init__(self, sizes: Sequence[int], *, seed: int, source: int, window: int, streams: int):
        self._sizes = np.asarray(sizes, np.int64)
        self.size = int(self._sizes.sum())
        self._seed, self._source, self._window = seed, source, window
        self._streams = streams if window else 1
        per_stream = (self.size - np.arange(self._streams) + self._streams - 1) // self._streams
        self._bounds = np.concatenate([[0], np.cumsum(per_stream)])
        self._shards, self._windows = _Recent(4), _Recent(2 * self._streams + 2)

    def draw(self, draws: Integers) -> tuple[Integers, Integers, Integers]:
        """Return shard, row in it and stream of draws (counted over all passes)."""
        shards, rows = np.empty_like(draws), np.empty_like(draws)
        passes, places = np.divmod(draws, self.size)
        streams, offsets = places % self._streams, places // self._streams
        for number in np.unique(passes).tolist():
            here = passes == number
            physical = self._bounds[streams[here]] + self._shuffled(number, streams[here], offsets[here])
            order = self._shard_order(number)
            ends = np.cumsum(self._sizes[order])
            at = np.searchsorted(ends, physical, side="right")
            shards[here] = order[at]
            rows[here] = physical - (ends[at] - self._sizes[order][at])
        return shards, rows, streams

    def _shard_order(self, number: int) -> Integers:
        if not self._window:
            return np.arange(len(self._sizes))
        seed = (self._seed, 1, self._source, number)
        return self._shards.get(number, partial(permutation, len(self._sizes), *seed))

    def _shuffled(self, number: int, streams: Integers, offsets: Integers) -> Integers:
        if not self._window:
            return offsets
        result = np.empty_like(offsets)
        blocks = offsets // self._window
        for stream, block in {*zip(streams.tolist(), blocks.tolist(), strict=True)}:
            here = (streams == stream) & (blocks == block)
            first = block * self._window
            size = min(self._window, int(self._bounds[stream + 1] - self._bounds[stream]) - first)
            seed = (self._seed, 2, self._source, number, stream, block)
            order = self._windows.get(seed, partial(permutation, size, *seed))
            result[here] = first + order[offsets[here] - first]
        return result


def apportion(sizes: Sequence[int], weights: Sequence[float] | None, total: int | None) -> list[int]:
    """Return how many samples of each source an epoch takes.

    Without weights in proportion to the sizes, so with `total` None exactly the sizes; else in proportion to the
    weights. Rounded by largest remainder, so the sum is exact.
    """
    if weights is None and total is None:
        return list(sizes)
    total = sum(sizes) if total is None else total
    shares = np.asarray(sizes if weights is None else weights, np.float64)
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(np.int64)
    short = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1
    return [int(count) for count in counts]


def interleave(counts: Sequence[int], positions: Integers) -> tuple[Integers, Integers]:
    """Return the source of each position of an epoch, and the index among the samples of that source.

    Of any first p positions, source 0 holds floor(p counts[0] / sum); the rest is divided among the other sources in
    the same way. Every source gets exactly its count, and no stretch of the epoch lacks one.
    """
    left = sum(counts)
    source, index = np.full_like(positions, -1), np.zeros_like(positions)
    before = positions.copy()  # how many of the sources not yet dealt with stand before each position
    for number, count in enumerate(counts):
        if not count:
            continue
        taken, then = before * count // left, (before + 1) * count // left
        mine = (source < 0) & (then > taken)
        source[mine], index[mine] = number, taken[mine]
        before -= taken
        left -= count
    return source, index


class EpochOrder:
    """The order of epochs over all sources and ranks.

    Global batch t of epoch e is a function of (seed, e, t, global batch size); rank r takes the r-th slice of it.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        *,
        weights: Sequence[float] | None,
        total: int | None,
        seed: int,
        window: int,
        streams: int,
    ):
        self._orders = [
            SourceOrder(shards, seed=seed, source=source, window=window, streams=streams)
            for source, shards in enumerate(sizes)
        ]
        self.counts = apportion([order.size for order in self._orders], weights, total)
        self.samples = sum(self.counts)
        if self.samples > 2**31:  # products of two of them must stay below 2^63
            raise ValueError(f"an epoch of {self.samples:,} samples: set data.samples_per_epoch to at most 2^31")

    def batch(self, epoch: int, first: int, last: int) -> tuple[Integers, Integers, Integers, Integers]:
        """Return source, shard, row and position of the samples at positions first .. last-1 of an epoch.

        Samples of one stream stand together, so that the ranks' slices share as few shards as possible.
        """
        positions = np.arange(first, last, dtype=np.int64)
        sources, index = interleave(self.counts, positions)
        shards, rows, streams = np.empty_like(index), np.empty_like(index), np.empty_like(index)
        for source in np.unique(sources).tolist():
            here = sources == source
            drawn = self._orders[source].draw(epoch * self.counts[source] + index[here])
            shards[here], rows[here], streams[here] = drawn
        together = np.argsort(streams, kind="stable")
        return sources[together], shards[together], rows[together], positions[together]
