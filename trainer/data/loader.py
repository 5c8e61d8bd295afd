"""`ShardLoader`: an epoch's batches for one rank, from any position.

Every batch is a function of (seed, epoch, number of the batch, global batch size): the order is arithmetic (`order`),
a sample is read by its place in the tar (`index`), and its augmentation is seeded by its position. So resume is a start
at another number; neither workers nor ranks change what a global batch holds; and a worker that dies loses nothing but
time. Workers are torch's; they take whole batches and hand them back in order.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from trainer.data.base import Loader, check_place
from trainer.data.batch import Batch
from trainer.data.errors import BadSource, Kind, LoaderStalled, TooManyBad
from trainer.data.order import EpochOrder
from trainer.data.prefetch import Prefetch
from trainer.data.reader import Bad, Concepts, Reader, Tokenizer, Transform, heads_of
from trainer.data.settings import DataSettings
from trainer.data.shards import OpenSource, ShardFacts, open_source
from trainer.data.streams import bytes_in_use, default_streams
from trainer.data.workers import Batches


class ShardLoader(Loader):
    """Reads webdataset shards.

    Args:
        settings: what is read, and how.
        batch_size: samples of a batch on each rank.
        rank, world: which rank of how many this is.
        seed: of order and augmentation.
        transform: image (PIL, RGB) to a (3, h, w) float32 tensor; may draw from the generators of torch, Python and
            NumPy, which are seeded for each sample.
        tokenizer: captions to (n, context) int64.
        concepts: concept targets, one of each source (None for a source without), or those of the only source.
        begun: the shards of each source with which a run that is resumed began.
        pin: hand batches out in page-locked memory, for a GPU; with workers a thread does it beside the training.

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
        pin: bool = False,
    ):
        check_place(batch_size, rank, world, seed)
        self.sources = _open_sources(settings, begun)
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
        self._pin = pin
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
        )
        self.indexed = sum((Counter(source.bad) for source in self.sources), Counter[str]())
        self._prefetch = Prefetch(self._reader, self.batches_per_epoch)
        self._batches = Batches(self._reader, settings.workers)
        self._positions = _Positions()
        self._workers: DataLoader[Any] | None = None
        self._turn = 0

    @property
    def contents(self) -> Sequence[str]:
        """Of each source its weight, and SHA-256 and samples of its shards."""
        return [
            line
            for setting, source in zip(self._settings.sources, self.sources, strict=True)
            for line in (f"source {setting.weight}", *(f"{shard.sha256} {shard.samples}" for shard in source.shards))
        ]

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
        batches = (
            self._in_this_process(epoch, start) if not self._settings.workers else self._from_workers(epoch, start)
        )
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

    def _in_this_process(self, epoch: int, start: int) -> Iterator[tuple[Batch, list[Bad]]]:
        for number in range(start, self.batches_per_epoch):
            batch, bad = self._reader.batch(epoch, number)
            yield batch.pin_memory() if self._pin else batch, bad

    def _from_workers(self, epoch: int, start: int) -> Iterator[tuple[Batch, list[Bad]]]:
        self._positions.set(epoch, start, self.batches_per_epoch)
        if self._workers is None:
            self._workers = DataLoader(
                self._batches,
                batch_size=None,
                sampler=self._positions,
                num_workers=self._settings.workers,
                prefetch_factor=self._settings.prefetch,
                persistent_workers=True,
                timeout=self._settings.stall_s,
                pin_memory=self._pin,
                collate_fn=_as_it_is,
                worker_init_fn=self._batches.begin,
                generator=torch.Generator(),  # its seed would else be drawn from the generator of the training
            )
        number = start
        with self._batches.starting():
            batches = iter(self._workers)
        while number < self.batches_per_epoch:
            try:
                item = next(batches)
            except RuntimeError as error:
                if "timed out" in str(error):
                    self._batches.end_workers()
                    raise LoaderStalled(
                        f"batch {number} of epoch {epoch} did not come within data.stall_s "
                        f"{self._settings.stall_s:g} s; {self._batches.states()}"
                    ) from error
                error.add_note(f"while waiting for batch {number} of epoch {epoch}; {self._batches.states()}")
                raise
            except (ConnectionError, EOFError) as error:
                raise RuntimeError(
                    f"a worker ended while it handed over batch {number} of epoch {epoch}; {self._batches.states()}"
                ) from error
            yield item
            number += 1

    def close(self) -> None:
        """End the workers and close the shards."""
        self._turn += 1
        self._prefetch.stop()
        self._batches.dismiss()
        self._workers = None
        self._reader.close()


class _Positions(torch.utils.data.Sampler[tuple[int, int]]):
    """(epoch, batch) in order; set anew for every epoch."""

    def __init__(self) -> None:
        self._epoch, self._range = 0, range(0)

    def set(self, epoch: int, start: int, end: int) -> None:
        self._epoch, self._range = epoch, range(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self._epoch, number) for number in self._range])

    def __len__(self) -> int:
        return len(self._range)


def _as_it_is(item: Any) -> Any:
    return item


def _weights(settings: DataSettings) -> list[float] | None:
    weights = [source.weight for source in settings.sources if source.weight is not None]
    return weights or None


def _open_sources(settings: DataSettings, begun: Sequence[Sequence[ShardFacts]] | None) -> tuple[OpenSource, ...]:
    if begun is not None and len(begun) != len(settings.sources):
        raise BadSource(f"data.sources names {len(settings.sources)}; the run began with {len(begun)}")
    facts: Sequence[Sequence[ShardFacts] | None] = begun or [None] * len(settings.sources)
    opened = tuple(open_source(source, settings, of) for source, of in zip(settings.sources, facts, strict=True))
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
