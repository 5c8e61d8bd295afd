"""`ShardLoader`: an epoch's batches for one rank, from any position.

Every batch is a function of (seed, epoch, number of the batch, global batch size): the order is arithmetic (`order`),
a sample is read by its place in the tar (`index`), and its augmentation is seeded by its position. So resume is a start
at another number; neither workers nor ranks change what a global batch holds; and a worker that dies loses nothing but
time. `feed` has the workers.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from trainer.data.batch import Batch
from trainer.data.errors import BadSource, Kind, TooManyBad
from trainer.data.feed import CPU, Feed
from trainer.data.order import EpochOrder
from trainer.data.prefetch import Prefetch
from trainer.data.reader import Bad, Concepts, Reader, Tokenizer, Transform, heads_of
from trainer.data.settings import DataSettings
from trainer.data.shards import OpenSource, ShardFacts, open_source
from trainer.data.streams import bytes_in_use, default_streams
from trainer.data.subset import Found, Subset, open_subset


class ShardLoader:
    """Reads webdataset shards.

    Args:
        settings: what is read, and how.
        batch_size: samples of a batch on each rank.
        rank, world: which rank of how many this is.
        seed: of order and augmentation.
        transform: image (PIL, RGB) to a (3, h, w) tensor, of uint8 pixels if `trainer.transforms` makes it; may draw
            from the generators of torch, Python and NumPy, which are seeded for each sample.
        tokenizer: captions to (n, context) int64.
        concepts: concept targets, one of each source (None for a source without), or those of the only source.
        begun: the shards of each source with which a run that is resumed began.
        device: where batches are handed out; for a GPU the next one is copied while one is computed.

    Raises:
        BadSource, ShardMismatch, ConceptMismatch, TooManyBad: the data cannot be used as asked.
    """

    def __init__(
        self,
        settings: DataSettings,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        transform: Transform,
        tokenizer: Tokenizer,
        concepts: Concepts | Sequence[Concepts | None] | None = None,
        begun: Sequence[Sequence[ShardFacts]] | None = None,
        device: torch.device = CPU,
    ):
        if batch_size < 1 or not 0 <= rank < world:
            raise ValueError(
                f"batch size {batch_size}, rank {rank} of {world}: need batch size >= 1, 0 <= rank < world"
            )
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed {seed} is not in [0, 2^63)")
        self._batch_size, self._world = batch_size, world
        self.subset = open_subset(settings.subset) if settings.subset else None
        """The uids that are read; None: all."""
        self.found = Found(self.subset) if self.subset is not None else None
        """How many of them are in the shards."""
        self.sources = _open_sources(settings, begun, self.subset, self.found)
        self.streams = settings.streams or default_streams(self.sources, settings.shuffle, settings.cache_bytes)
        """Stretches of the data that are read side by side."""
        self._settings = settings = replace(settings, streams=self.streams)
        _require_cache(settings, self.sources, self.streams, world)
        order = EpochOrder(
            [[shard.samples for shard in source.shards] for source in self.sources],
            weights=_weights(settings),
            total=settings.samples_per_epoch,
            seed=seed,
            window=settings.shuffle,
            streams=self.streams,
        )
        self.batches_per_epoch, self.samples_per_epoch = self._lengths(order.samples)
        joined = _per_source(concepts, len(self.sources))
        self.heads = heads_of(joined)
        """Head of the concept targets to the number of its concepts."""
        self.problems: list[str] = [problem for source in self.sources for problem in source.problems]
        """The first errors in words."""
        self.problems += _missing_targets(self.sources, joined, settings.max_bad_share)
        self._reader = Reader(
            settings,
            self.sources,
            joined,
            order,
            batch_size=batch_size,
            rank=rank,
            world=world,
            seed=seed,
            transform=transform,
            tokenizer=tokenizer,
            subset=self.subset,
        )
        self.indexed = sum((Counter(source.bad) for source in self.sources), Counter[str]())
        """Samples that the index leaves out, by kind; for all ranks."""
        self.read = Counter({"ok": 0})
        """Samples that this loader has handed out (`ok`), and those in whose place others came, by kind."""
        self.lost = 0
        """Those of the epoch that is read."""
        self._resumed: tuple[int, int] | None = None
        self.waited_s = 0.0
        """Seconds in which the caller waited for batches."""
        self._prefetch = Prefetch(self._reader, self.batches_per_epoch)
        self._feed = Feed(self._reader, settings, device)
        self._turn = 0

    @property
    def counts(self) -> dict[str, int]:
        """Samples by what became of them: `ok`, or an error (see `Kind`); what the index found and what was read."""
        return dict(self.read + self.indexed) | {"ok": self.read["ok"]}

    def take_over(self, read: Mapping[str, int], epoch: int, lost: int) -> None:
        """Go on counting: `read` of an earlier loader, with `lost` bad samples of the epoch that is gone on with."""
        self.read, self.lost, self._resumed = Counter(read), lost, (epoch, lost)

    def check_lost(self, epoch: int, lost: int) -> None:
        """Raises TooManyBad where that many bad samples of an epoch, of all ranks, are more than max_bad_share."""
        if lost > self._settings.max_bad_share * self.samples_per_epoch:
            last = f"; last: {self.problems[-1]}" if self.problems else ""
            raise TooManyBad(
                f"epoch {epoch}: {lost:,} bad samples, more than data.max_bad_share "
                f"{self._settings.max_bad_share:.2%} of its {self.samples_per_epoch:,}{last}"
            )

    def _lengths(self, samples: int) -> tuple[int, int]:
        """Batches of an epoch, and their samples over all ranks: with drop_last floor(samples / (b world)) batches."""
        whole = self._batch_size * self._world
        batches = samples // whole if self._settings.drop_last else -(-samples // whole)
        if not batches:
            raise BadSource(
                f"an epoch of {samples:,} samples does not fill one global batch of {self._batch_size} x {self._world}"
                ": lower the batch size, or set data.drop_last to false"
            )
        return batches, batches * whole if self._settings.drop_last else samples

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches `start`, `start + 1`, ... of an epoch for this rank. Only one epoch at a time: a new call ends the
        iterator of the one before.

        Raises:
            TooManyBad: this rank met more bad samples than max_bad_share of the epoch (`check_lost` for all ranks).
            LoaderStalled: a worker did not answer in time.
            ShardUnavailable, ShardMismatch, ConceptMismatch: a shard has gone or changed, targets do not belong to it.
        """
        if epoch < 0 or not 0 <= start <= self.batches_per_epoch:
            raise ValueError(f"epoch {epoch}, batch {start}: an epoch has {self.batches_per_epoch} batches")
        self._turn += 1
        self._prefetch.stop()
        return self._epoch(epoch, start, self._turn)

    def _epoch(self, epoch: int, start: int, turn: int) -> Iterator[Batch]:
        self.lost = self._resumed[1] if self._resumed is not None and self._resumed[0] == epoch else 0
        self._resumed = None
        number = start
        batches = self._feed(epoch, start, self.batches_per_epoch)
        while True:
            if turn != self._turn:
                raise RuntimeError(f"epoch {epoch} was left for another one; this iterator cannot go on")
            began = time.perf_counter()
            item = next(batches, None)
            self._prefetch.at(epoch, number)  # begins after the workers are forked: it is a thread
            self.waited_s += time.perf_counter() - began
            if item is None:
                return
            batch, bad = item
            self.read["ok"] += len(batch)
            self._note(bad)
            self.check_lost(epoch, self.lost)
            number += 1
            yield batch

    def _note(self, bad: Sequence[Bad]) -> None:
        self.lost += len(bad)
        for kind, message in bad:
            self.read[kind] += 1
            if len(self.problems) < 1000:
                self.problems.append(f"{kind}: {message}")

    def close(self) -> None:
        """End the workers and close the shards."""
        self._turn += 1
        self._prefetch.stop()
        self._feed.close()
        self._reader.close()


def _weights(settings: DataSettings) -> list[float] | None:
    weights = [source.weight for source in settings.sources if source.weight is not None]
    return weights or None


def _open_sources(
    settings: DataSettings,
    begun: Sequence[Sequence[ShardFacts]] | None,
    subset: Subset | None,
    found: Found | None,
) -> tuple[OpenSource, ...]:
    if begun is not None and len(begun) != len(settings.sources):
        raise BadSource(f"data.sources names {len(settings.sources)}; the run began with {len(begun)}")
    facts: Sequence[Sequence[ShardFacts] | None] = begun or [None] * len(settings.sources)
    pairs = zip(settings.sources, facts, strict=True)
    opened = tuple(open_source(source, settings, of, subset, found) for source, of in pairs)
    unknown = set(settings.skip).difference(*(source.skipped for source in opened))
    if unknown:
        raise BadSource(f"data.skip names {min(unknown)}, which is the file name or path of no shard")
    return opened


def _require_cache(settings: DataSettings, sources: Sequence[OpenSource], streams: int, world: int) -> None:
    """Refuse remote shards of which the cache does not hold what is in use: each would be fetched again and again."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world)) / world  # of the ranks; a stream at the border is read twice
    needed = bytes_in_use(sources, settings.shuffle, streams, min(1.0, here + 1 / streams))
    if needed > settings.cache_bytes:
        raise BadSource(
            f"two windows of the shuffle are {needed / 2**30:.3g} GiB of remote shards on this machine, data.cache_gib "
            f"is {settings.cache_gib:.3g}: raise it, or lower data.streams, now {streams}, or data.shuffle"
        )


def _missing_targets(
    sources: Sequence[OpenSource], concepts: Sequence[Concepts | None], max_bad_share: float
) -> list[str]:
    """Shards without concept targets, in words. Raises TooManyBad where they hold more of a source than allowed,
    ConceptMismatch where targets are of other shards."""
    found = []
    for source, known in zip(sources, concepts, strict=True):
        if known is None:
            continue
        present = {shard.file.name: shard for shard in source.shards if shard.samples and not shard.left_out}
        missing = known.missing({name: shard.sha256 for name, shard in present.items()})
        lost, samples = (sum(present[name].samples for name in names) for names in (missing, present))
        if lost > max_bad_share * samples:
            raise TooManyBad(
                f"{source.path}: {len(missing):,} shards with {lost / samples:.2%} of the samples have no concept "
                f"targets, more than data.max_bad_share {max_bad_share:.2%}; first: {missing[0]}; run `make concepts` "
                "again"
            )
        found += [f"{name}: {Kind.MISSING_CONCEPTS}: there are no concept targets of it" for name in missing]
    return found


def _per_source(concepts: Any, sources: int) -> list[Concepts | None]:
    if concepts is None:
        return [None] * sources
    joined = list(concepts) if isinstance(concepts, (list, tuple)) else [concepts]
    if len(joined) != sources:
        raise ValueError(f"{len(joined)} sets of concept targets for {sources} sources; give one each, None for none")
    return joined
