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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from open_diht.trainer.data.base import Loader, check_place
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.data.errors import BadSource, Kind, TooManyBad
from open_diht.trainer.data.feed import CPU, Feed
from open_diht.trainer.data.order import EpochOrder
from open_diht.trainer.data.prefetch import Prefetch
from open_diht.trainer.data.reader import Bad, Concepts, Reader, Tokenizer, Transform, heads_of
from open_diht.trainer.data.settings import DataSettings
from open_diht.trainer.data.shards import OpenSource, ShardFacts, open_source
from open_diht.trainer.data.streams import bytes_in_use, default_streams
from open_diht.trainer.data.subset import Found, Subset, open_subset


class ShardLoader(Loader):
    """Reads webdataset shards.

    Args:
        settings: what is read, and how.
        batch_size: samples of a batch on each rank.
        rank, world: which rank of how many this is.
        seed: of order and augmentation.
        transform: image (PIL, RGB) to a (3, h, w) tensor, of uint8 pixels if `open_diht.trainer.transforms` makes it;
            may draw from the generators of torch, Python and NumPy, which are seeded for each sample.
        tokenizer: captions to (n, context) int64.
        concepts: concept targets, one of each source (None for a source without), or those of the only source.
        begun: the shards of each source with which a run that is resumed began.
        opened: the sources, where another loader has them open (`OpenSource.other_part`): no shard is looked for and
            no index is read again.
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
        opened: Sequence[OpenSource] = (),
        device: torch.device = CPU,
    ):
        check_place(batch_size, rank, world, seed)
        self.subset = open_subset(settings.subset) if settings.subset else None
        """The uids that are read; None: all."""
        self.found = Found(self.subset) if self.subset is not None and not opened else None
        """How many of them are in the shards."""
        self.sources = tuple(opened) or _open_sources(settings, begun, self.subset, self.found)
        self.held_out = sum(source.others for source in self.sources)
        self.streams = settings.streams or default_streams(self.sources, settings.shuffle, settings.cache_bytes)
        settings = replace(settings, streams=self.streams)
        _require_cache(settings, self.sources, self.streams, world)
        order = EpochOrder(
            [[shard.samples for shard in source.shards] for source in self.sources],
            weights=_weights(settings),
            total=settings.samples_per_epoch,
            seed=seed,
            window=settings.shuffle,
            streams=self.streams,
        )
        super().__init__(settings, batch_size=batch_size, world=world, samples=order.samples)
        joined = _per_source(concepts, len(self.sources))
        self.heads = heads_of(joined)
        """Head of the concept targets to the number of its concepts."""
        self.problems += [problem for source in self.sources for problem in source.problems]
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
        self._prefetch = Prefetch(self._reader, self.batches_per_epoch)
        self._feed = Feed(self._reader, settings, device)
        self._turn = 0

    @property
    def contents(self) -> Sequence[str]:
        """Of each source its weight, and SHA-256 and samples of its shards; which of these are read."""
        return [
            line
            for setting, source in zip(self._settings.sources, self.sources, strict=True)
            for line in (f"source {setting.weight}", *(f"{shard.sha256} {shard.samples}" for shard in source.shards))
        ] + ([] if self.subset is None else [f"subset {self.subset.digest}"])

    @property
    def remarks(self) -> Sequence[str]:
        """How many of the uids that are asked for are in the shards."""
        return [] if self.found is None else [f"data.subset {self._settings.subset}: {self.found}"]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches `start`, `start + 1`, ... of an epoch for this rank. Only one epoch at a time: a new call ends the
        iterator of the one before.

        Raises:
            TooManyBad: this rank met more bad samples than max_bad_share of the epoch (`check_lost` for all ranks).
            LoaderStalled: a worker did not answer in time.
            ShardUnavailable, ShardMismatch, ConceptMismatch: a shard has gone or changed, targets do not belong to it.
        """
        self._check_position(epoch, start)
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
