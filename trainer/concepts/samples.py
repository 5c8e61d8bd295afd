"""The training, validation and test samples of a head, and the order of the training samples.

A sample's part depends on the hash of its key, so parts do not change when shards are added.
Training up-samples rare concepts by the square root of their frequency: a concept in a fraction f
of the samples has the repeat factor r = max(1, sqrt(t / f)), a sample has the largest factor of its
concepts, and it occurs floor(r) times in an epoch, and once more with probability r - floor(r).
(Square-root up-sampling, this form of it, and t are (unverified).)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from open_diht.common.shard_index import hash64
from open_diht.trainer.concepts.store import ConceptStore, Labels, ShardConcepts, concatenated
from open_diht.trainer.data.order import permutation

# Fewest samples in whole shards that are shuffled together; the last pool may be smaller. Features
# of 768 numbers take 150 MB of memory then.
POOL_ROWS = 100_000
# Validation or test samples after which no shard is added: the interval of a fraction is below one
# point by then.
MOST_MEASURED = 50_000


class Part(StrEnum):
    """The part of the samples for one purpose."""

    TRAIN = "train"
    VALIDATION = "validation"  # selects the epoch
    TEST = "test"  # for reported metrics only


@dataclass(frozen=True)
class Usable:
    """The samples of one shard and part that have an image and a concept."""

    shard: ShardConcepts
    rows: npt.NDArray[np.int64]
    labels: Labels
    """Labels of these rows."""

    def __len__(self) -> int:
        return len(self.rows)

    def features(self) -> npt.NDArray[np.float16]:
        """Read the features (n, d)."""
        return self.shard.features[self.rows]


@dataclass(frozen=True)
class Samples:
    """Features and labels of samples, in memory."""

    features: npt.NDArray[np.float16]
    """(n, d) features."""
    labels: Labels

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Statistics:
    """Statistics of the training samples."""

    samples: int
    counts: npt.NDArray[np.int64]
    """(concepts,) number of samples with each concept."""
    mean: npt.NDArray[np.float32]
    std: npt.NDArray[np.float32]
    """(d,) standard deviation of the features, at least 1e-4; `mean` is (d,) too."""

    @property
    def frequencies(self) -> npt.NDArray[np.float64]:
        """(concepts,) fraction of the samples with each concept."""
        return self.counts / max(self.samples, 1)


def repeat_factors(
    labels: Labels, frequencies: npt.NDArray[np.float64], threshold: float
) -> npt.NDArray[np.float64]:
    """Return the expected occurrences of each sample in an epoch, (n,). Samples without concepts
    have 0."""
    of_concept = np.maximum(1.0, np.sqrt(threshold / np.maximum(frequencies, 1e-12)))
    factors = np.zeros(len(labels.offsets) - 1)
    counts = labels.counts()
    if len(labels.ids):
        starts = labels.offsets[:-1][counts > 0]  # reduceat cannot reduce empty segments
        factors[counts > 0] = np.maximum.reduceat(of_concept[labels.ids], starts)
    return factors


class HeadSamples:
    """The samples of one head of a store. Half of the held-out ones are for validation and half for
    test."""

    def __init__(
        self,
        store: ConceptStore,
        head: str,
        *,
        holdout: float,
        threshold: float,
        seed: tuple[int, ...],
    ):
        self._store = store
        self.head = head
        self._threshold = threshold
        self._seed = seed
        self.classes = store.heads[head]
        self._limits = np.array([holdout / 2 * 2**64, holdout * 2**64], np.uint64)

    def usable(self, part: Part) -> Iterator[Usable]:
        """Yield the usable samples of a part, one shard at a time."""
        wanted = (Part.VALIDATION, Part.TEST, Part.TRAIN).index(part)
        for entry in self._store.shards:
            shard = self._store.load(entry)
            labels = shard.labels[self.head]
            hashes = np.array(
                [hash64(key.encode("utf-8", "surrogateescape")) for key in shard.keys], np.uint64
            )
            # 0: validation, 1: test, 2: training.
            side = np.searchsorted(self._limits, hashes, side="right")
            rows = np.flatnonzero(shard.good & (labels.counts() > 0) & (side == wanted))
            yield Usable(shard, rows, labels.of(rows))

    def statistics(self) -> Statistics:
        """Return the statistics of the training samples, in one pass."""
        samples = 0
        counts = np.zeros(self.classes, np.int64)
        total = np.zeros(self._store.width)
        squares = np.zeros(self._store.width)
        for some in filter(len, self.usable(Part.TRAIN)):
            exact = some.features().astype(np.float64)  # sums of float16 would lose precision
            samples += len(exact)
            total += exact.sum(axis=0)
            squares += (exact**2).sum(axis=0)
            counts += np.bincount(some.labels.ids, minlength=self.classes)
        mean = total / max(samples, 1)
        std = np.sqrt(np.maximum(squares / max(samples, 1) - mean**2, 1e-8))
        return Statistics(samples, counts, mean.astype(np.float32), std.astype(np.float32))

    def expected(self, frequencies: npt.NDArray[np.float64]) -> float:
        """Return the expected number of samples of an epoch after up-sampling, without reading
        features."""
        return sum(
            float(repeat_factors(some.labels, frequencies, self._threshold).sum())
            for some in self.usable(Part.TRAIN)
        )

    def measured(self, part: Part) -> Samples:
        """Return validation or test samples: whole shards until there are MOST_MEASURED or more."""
        found: list[Usable] = []
        for some in self.usable(part):
            found.append(some)
            if sum(map(len, found)) >= MOST_MEASURED:
                break
        return _together(found)

    def pools(
        self, epoch: int, batch_size: int, frequencies: npt.NDArray[np.float64], first: int = 0
    ) -> Iterator[
        tuple[
            int,
            Iterator[
                tuple[npt.NDArray[np.float16], npt.NDArray[np.int64], npt.NDArray[np.float32]]
            ],
        ]
    ]:
        """Yield each pool from `first` on: its number, and batches of features (n, d), ids and
        weights (n, m), which are a function of the seed. The last batch of a pool may be smaller.
        Features of earlier pools are not read.
        """
        waiting: list[Usable] = []
        number = 0
        for some in self.usable(Part.TRAIN):
            waiting.append(some)
            if sum(map(len, waiting)) >= POOL_ROWS:
                if number >= first:
                    yield (
                        number,
                        self._batches(_together(waiting), epoch, number, batch_size, frequencies),
                    )
                waiting, number = [], number + 1
        if waiting and number >= first:
            yield number, self._batches(_together(waiting), epoch, number, batch_size, frequencies)

    def _batches(
        self,
        pool: Samples,
        epoch: int,
        number: int,
        batch_size: int,
        frequencies: npt.NDArray[np.float64],
    ) -> Iterator[tuple[npt.NDArray[np.float16], npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        seed = (*self._seed, epoch, number)
        factors = repeat_factors(pool.labels, frequencies, self._threshold)
        bits = np.random.PCG64(np.random.SeedSequence((*seed, 1))).random_raw(len(factors))
        chance = (bits >> np.uint64(11)) * 2.0**-53  # uniform in [0, 1)
        repeats = np.floor(factors).astype(np.int64) + (chance < factors - np.floor(factors))
        drawn = np.repeat(np.arange(len(factors)), repeats)
        drawn = drawn[permutation(len(drawn), *seed, 2)]
        for start in range(0, len(drawn), batch_size):
            rows = drawn[start : start + batch_size]
            yield (pool.features[rows], *pool.labels.padded(rows))


def _together(parts: list[Usable]) -> Samples:
    found = [some for some in parts if len(some)]  # do not read features of shards without samples
    if not found:
        return Samples(
            np.zeros((0, 0), np.float16), Labels(np.zeros(1, np.int64), np.zeros(0, np.int32))
        )
    return Samples(
        np.concatenate([some.features() for some in found]),
        concatenated([some.labels for some in found]),
    )
