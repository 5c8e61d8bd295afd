"""The order of an epoch as arithmetic: any position can be computed without those before it.

So a resume is exact and cheap, and independent of the number of workers and ranks. Memory holds
only the sizes and order of the shards and the permutations of the windows in use.

- A *pass* is one permutation of a source: its shards are permuted and concatenated; the sequence is
  cut into `streams` ranges, equal up to one sample, and each range into windows of `window`
  samples; each window is permuted. With window 0 a pass is the shards and samples in their order.
- The draws of a pass take the streams in turn: draw j takes the next sample of stream j mod
  streams.
- With repeats a pass is a sequence of rounds, each a permutation as above of the samples that are
  in it.
- Several sources are interleaved evenly by counts, see `interleave`.

Permutations are the sort order of raw bits of PCG64. NumPy keeps these stable, but not its
`permutation`.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from open_diht.trainer.data.errors import BadSource

Integers = npt.NDArray[np.int64]


def permutation(n: int, *seed: int) -> Integers:
    """Return a permutation of 0 .. n-1, (n,) int64."""
    bits = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(n)
    return np.argsort(bits, kind="stable").astype(np.int64)


def mixed(value: int) -> int:
    """Return a 63-bit hash of a number (SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1


@dataclass(frozen=True, kw_only=True)
class RankBatches:
    """The part of each global batch that a rank reads. Raises ValueError if the batch size, rank or
    seed is wrong."""

    batch_size: int
    """Samples per batch on each rank."""
    rank: int
    world: int
    seed: int
    """Seed of order and augmentation."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.rank < self.world:
            raise ValueError(
                f"batch size {self.batch_size}, rank {self.rank} of {self.world}: need batch size"
                " >= 1, 0 <= rank < world"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is not in [0, 2^63)")

    @property
    def whole(self) -> int:
        """Number of samples of a global batch."""
        return self.batch_size * self.world

    def rows(self, number: int, samples: int) -> tuple[int, int, slice]:
        """Return the range of a global batch, and the rank's rows of it."""
        first = number * self.whole
        size = min(self.whole, samples - first)
        return (
            first,
            first + size,
            slice(size * self.rank // self.world, size * (self.rank + 1) // self.world),
        )


class _Recent:
    """A cache of the last few values made."""

    def __init__(self, most: int):
        self._most = most
        self._values: OrderedDict[Hashable, Integers] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Integers]) -> Integers:
        if key not in self._values:
            self._values[key] = make()
            if len(self._values) > self._most:
                self._values.popitem(last=False)  # the oldest
        return self._values[key]


class SourceOrder:
    """An infinite sequence of draws from one source, pass after pass. A pass draws every row once.
    `sizes` are (shards,) or (shards, rounds). With rounds, a shard's rows are in groups: a pass
    takes the first group of all shards, then the second of all, and so on. With `window` 0 shards
    and samples keep their order.
    """

    def __init__(
        self,
        sizes: Sequence[int | Sequence[int]],
        *,
        seed: int,
        source: int,
        window: int,
        streams: int,
    ):
        self._sizes = np.atleast_2d(np.asarray(sizes, np.int64).T)  # (rounds, shards)
        # Rows of each shard in earlier rounds.
        self._before = np.cumsum(self._sizes, axis=0) - self._sizes
        self._ends = np.cumsum(self._sizes.sum(axis=1))
        self.size = int(self._ends[-1])
        self._seed = seed
        self._source = source
        self._window = window
        self._streams = streams if window else 1  # without a shuffle, the order of the shards
        totals = self._sizes.sum(axis=1)[:, None]
        per_stream = (
            totals - np.arange(self._streams) + self._streams - 1
        ) // self._streams  # equal up to one
        # (rounds, streams + 1).
        self._bounds = np.pad(np.cumsum(per_stream, axis=1), ((0, 0), (1, 0)))
        self._shards = _Recent(4)
        self._windows = _Recent(2 * self._streams + 2)

    def draw(self, draws: Integers) -> tuple[Integers, Integers, Integers]:
        """Return the shard, the row in it and the stream of each draw; draws are counted over all
        passes."""
        shards = np.empty_like(draws)
        rows = np.empty_like(draws)
        passes, places = np.divmod(draws, self.size)
        rounds = np.searchsorted(self._ends, places, side="right")
        places -= np.concatenate([[0], self._ends])[rounds]
        passes = passes * len(self._ends) + rounds
        streams = places % self._streams
        offsets = places // self._streams
        for number in np.unique(passes).tolist():
            here = passes == number
            of_round = number % len(self._ends)
            begins = self._bounds[of_round][streams[here]]
            physical = begins + self._shuffled(number, streams[here], offsets[here])
            order = np.arange(self._sizes.shape[1])
            sizes = self._sizes[of_round]
            if self._window:
                seed = (self._seed, 1, self._source, number)
                order = self._shards.get(number, partial(permutation, len(order), *seed))
            ends = np.cumsum(sizes[order])
            # Place of the shard in the permuted order.
            at = np.searchsorted(ends, physical, side="right")
            shards[here] = order[at]
            rows[here] = (
                physical - (ends[at] - sizes[order][at]) + self._before[of_round][order[at]]
            )
        return shards, rows, streams

    def _shuffled(self, number: int, streams: Integers, offsets: Integers) -> Integers:
        if not self._window:
            return offsets
        result = np.empty_like(offsets)
        blocks = offsets // self._window
        bounds = self._bounds[number % len(self._ends)]
        for stream, block in {*zip(streams.tolist(), blocks.tolist(), strict=True)}:
            # Each window once.
            here = (streams == stream) & (blocks == block)
            first = block * self._window
            size = min(self._window, int(bounds[stream + 1] - bounds[stream]) - first)
            seed = (self._seed, 2, self._source, number, stream, block)
            order = self._windows.get(seed, partial(permutation, size, *seed))
            result[here] = first + order[offsets[here] - first]
        return result


def apportion(
    sizes: Sequence[int], weights: Sequence[float] | None, total: int | None
) -> list[int]:
    """Return the number of samples that an epoch of `total` takes from each source, in proportion
    to weights or, without them, to sizes. Numbers are rounded by largest remainder to the exact
    total. Without `total` it is the sum of the sizes."""
    if weights is None and total is None:
        return list(sizes)
    total = sum(sizes) if total is None else total
    shares = np.asarray(sizes if weights is None else weights, np.float64)
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(np.int64)
    short = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:short]] += 1  # the largest remainders
    return [int(count) for count in counts]


def interleave(counts: Sequence[int], positions: Integers) -> tuple[Integers, Integers]:
    """Return the source of each position of an epoch, and its index among that source's samples. Of
    the first p positions, for every p, source 0 has floor(p counts[0] / sum); the others divide the
    rest in the same way. So every source gets exactly its count, spread evenly over the epoch."""
    left = sum(counts)
    source = np.full_like(positions, -1)
    index = np.zeros_like(positions)
    before = positions.copy()  # positions before each one that belong to the remaining sources
    for number, count in enumerate(counts):
        if not count:
            continue
        taken = before * count // left
        then = (before + 1) * count // left
        mine = (source < 0) & (then > taken)
        source[mine], index[mine] = number, taken[mine]
        before -= taken
        left -= count
    return source, index


class EpochOrder:
    """The order of epochs over all sources and ranks. Global batch t of epoch e is a function of
    (seed, e, t, global batch size). Rank r takes its r-th slice."""

    def __init__(
        self,
        sizes: Sequence[Sequence[int | Sequence[int]]],
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
            raise BadSource(
                f"an epoch of {self.samples:,} samples: set data.samples_per_epoch to at most 2^31"
            )

    def batch(
        self, epoch: int, first: int, last: int
    ) -> tuple[Integers, Integers, Integers, Integers]:
        """Return source, shard, row and position of the samples in a range of an epoch. Samples of
        one stream are adjacent, so that the ranks' slices have few shards in common."""
        positions = np.arange(first, last, dtype=np.int64)
        sources, index = interleave(self.counts, positions)
        shards = np.empty_like(index)
        rows = np.empty_like(index)
        streams = np.empty_like(index)
        for source in np.unique(sources).tolist():
            here = sources == source
            drawn = self._orders[source].draw(epoch * self.counts[source] + index[here])
            shards[here], rows[here], streams[here] = drawn
        together = np.argsort(streams, kind="stable")  # groups the samples of each stream
        return sources[together], shards[together], rows[together], positions[together]
