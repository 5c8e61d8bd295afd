"""Loaders: the batches of an epoch for one rank, from any position. `ShardLoader` reads shards.

For given data and settings a batch is a function of (seed, epoch, number, global batch size): the
order is arithmetic (`order`), a sample of a shard is read by its position in the tar, and its
augmentation is seeded by seed, epoch and position. So a resume just starts at another number, and
the content of a global batch does not depend on workers or ranks. `feed` runs the workers.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from open_diht.common.stores import many_at_once
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.data.errors import BadSource, Kind, TooManyBad
from open_diht.trainer.data.feed import CPU, Feed, Makes
from open_diht.trainer.data.order import EpochOrder, RankBatches
from open_diht.trainer.data.reader import Reader, Tokenizer, Transform, evenly, heads_of
from open_diht.trainer.data.settings import DataSettings
from open_diht.trainer.data.shards import (
    OpenSource,
    ShardFacts,
    bytes_in_use,
    default_streams,
    open_source,
)
from open_diht.trainer.data.subset import Found, Subset, open_subset
from open_diht.trainer.errors import ConceptMismatch, DataError

if TYPE_CHECKING:
    from open_diht.trainer.concepts.targets import ConceptTargets, StoredTargets
    from open_diht.trainer.embeddings.targets import EmbeddingTargets


@dataclass(frozen=True, kw_only=True)
class Untaught:
    """The samples of a source without targets of a kind, as far as they are known before the first
    step."""

    source: str
    """Path of the source."""
    what: str
    """Kind of the targets."""
    remedy: str
    """The remedy if many are missing."""
    samples: int
    """Number of all samples."""
    absent: int
    """Number of the samples of shards without a file of targets."""
    looked_at: int
    """Number of the samples of other shards whose targets were read."""
    without: int
    """Number of the samples looked at without targets."""
    first: str
    """The first of these, or a shard without a file. It is empty if all have targets."""


_LOOKED_AT = 32
"""Shards of a source whose targets are read before the first step. To read all would take hours for
a terabyte of embeddings. One shard of these, if it alone has none, is 3 %, less than the default of
`max_missing_share`."""


class Loader(ABC):
    """A source of an epoch's batches for one rank, from any position, with counts of good and bad
    samples.

    Args:
        settings: the section `data`.
        samples: samples of an epoch, before an incomplete last batch is dropped.
        device: device on which batches are returned; a batch for a GPU is copied while the one
            before is used.

    Raises:
        BadSource: the samples do not make a batch.
    """

    sources: tuple[OpenSource, ...] = ()
    """The shards of each source; empty if nothing is read from shards."""
    held_out: int = 0
    """Number of samples in the other part of the split, such as the held-out ones for a loader of
    training samples."""
    streams: int | None = None
    """Number of ranges of each source that a shuffle reads in parallel. None means that there are
    no shards."""

    def __init__(
        self,
        settings: DataSettings,
        part: RankBatches,
        samples: int,
        maker: Makes,
        device: torch.device = CPU,
    ):
        self._settings = settings
        self._part = part
        self._feed = Feed(maker, settings, device)
        self._prefetch: Prefetch | None = None
        # With drop_last an epoch has floor(samples / (b world)) batches.
        batches = samples // part.whole if settings.drop_last else -(-samples // part.whole)
        if not batches:
            raise BadSource(
                f"an epoch of {samples:,} samples does not fill one global batch of"
                f" {part.batch_size} x {part.world}: lower the batch size, or let an epoch have"
                " more samples"
            )
        self.batches_per_epoch = batches
        self.samples_per_epoch = batches * part.whole if settings.drop_last else samples
        self.problems: list[str] = []
        """Lines about the first bad samples and shards."""
        self.indexed: Counter[str] = Counter()
        """Number of samples left out from the start, by kind (see `OpenSource.bad`). It is the same
        on all ranks."""
        self.read: Counter[str] = Counter({"ok": 0})
        """Number of samples returned (`ok`), and of bad ones by kind, including those of
        `take_over`."""
        self.lost = 0
        """Number of bad samples in this epoch."""
        self.waited_s = 0.0
        """Seconds that the caller waited for batches."""
        self._resumed: tuple[int, int] | None = None
        self._turn = 0

    @property
    @abstractmethod
    def contents(self) -> Sequence[str]:
        """Lines that identify the data: hashes and sizes, in the order of the shards or files."""

    @property
    def remarks(self) -> Sequence[str]:
        """Lines to report before the run begins."""
        return []

    def without_targets(self, rank: int, world: int) -> list[Untaught]:
        """Look for samples without targets, in a sample of the shards of each source, of which this
        rank reads every `world`-th. Return the counts for each source and kind of targets, or an
        empty list if they are not counted. Raises `ConceptMismatch` if targets cannot be used, or
        `StoreError`."""
        return []

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples by kind, `ok` or a `Kind`, including those left out from the start."""
        # The sum of counters drops zeros.
        return dict(self.read + self.indexed) | {"ok": self.read["ok"]}

    def take_over(self, read: Mapping[str, int], epoch: int, lost: int) -> None:
        """Continue the counts of an earlier loader: its `read`, and its `lost` in an epoch."""
        self.read = Counter(read)
        self.lost = lost
        self._resumed = (epoch, lost)

    def check_lost(self, epoch: int, lost: int) -> None:
        """Raise `TooManyBad` if `lost` bad samples, of this rank or of all, are more than
        `max_bad_share` allows."""
        if lost > self._settings.max_bad_share * self.samples_per_epoch:
            last = f"; last: {self.problems[-1]}" if self.problems else ""
            raise TooManyBad(
                f"epoch {epoch}: {lost:,} bad samples, more than data.max_bad_share "
                f"{self._settings.max_bad_share:.2%} of its {self.samples_per_epoch:,}{last}"
            )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return an iterator over an epoch's batches for this rank.

        Only one iterator works at a time: a new call invalidates the one before.

        Raises:
            ValueError: the epoch is negative, or `start` is not in 0 to `batches_per_epoch`.
                TooManyBad: this rank counted more bad samples than `max_bad_share` of the epoch
                (see `check_lost`), or found no replacement for one.
            LoaderStalled: a worker did not answer in time.
            RuntimeError: a worker ended, or a later call has closed the iterator.
            ShardUnavailable, ShardMismatch, ConceptMismatch: a shard cannot be opened or has
                changed, or concept targets do not belong to it.
            StoreError: concept targets at a URL cannot be read.
            OSError: the cache folder cannot be written.
        """
        if epoch < 0 or not 0 <= start <= self.batches_per_epoch:
            raise ValueError(
                f"epoch {epoch}, batch {start}: an epoch has {self.batches_per_epoch} batches"
            )
        self._stop()
        return self._epoch(epoch, start, self._turn)

    def _epoch(self, epoch: int, start: int, turn: int) -> Iterator[Batch]:
        self.lost = (
            self._resumed[1] if self._resumed is not None and self._resumed[0] == epoch else 0
        )
        self._resumed = None
        number = start
        batches = self._feed(epoch, start, self.batches_per_epoch)
        while True:
            if turn != self._turn:  # a later call of `epoch` or `close`
                raise RuntimeError(
                    f"epoch {epoch}: a later call of `epoch` or `close` has closed this iterator"
                )
            began = time.perf_counter()
            item = next(batches, None)
            if self._prefetch is not None:
                self._prefetch.at(epoch, number)  # starts its thread after the workers are forked
            self.waited_s += time.perf_counter() - began
            if item is None:
                return
            batch, bad = item
            self.read["ok"] += len(batch)
            self.lost += len(bad)
            for kind, message in bad:
                self.read[kind] += 1
                if len(self.problems) < 1000:
                    self.problems.append(f"{kind}: {message}")
            self.check_lost(epoch, self.lost)
            number += 1
            yield batch

    def _stop(self) -> None:
        self._turn += 1
        if self._prefetch is not None:
            self._prefetch.stop()

    def close(self) -> None:
        """End the workers. Nothing is read afterwards."""
        self._stop()
        self._feed.close()


class ShardLoader(Loader):
    """A loader of webdataset shards.

    Args:
        transform: function from an image (PIL, RGB) to a (3, h, w) tensor, with uint8 pixels for
            `open_diht.trainer.transforms`; it may draw from the global generators of torch, Python
            and NumPy, which are seeded for each sample.
        tokenizer: function from captions to (n, context) int64 ids.
        concepts: concept targets of each source (None for a source without), or those of the only
            source.
        embeddings: a teacher's embeddings, likewise.
        view: for embeddings of drawn crops the side of the square that a crop is resized to, and
            its `transform`.
        begun: for a resumed run, the shards of each source that it began with.
        opened: sources that another loader has open (`OpenSource.other_part`), so that nothing is
            indexed again.

    Raises:
        DataError, WrongUse, StoreError: the data, or concept targets at a URL, cannot be used as
            configured.
        ValueError: the batch size, rank or seed is out of range, there are not as many targets as
            sources, or drawn crops have no `view`.
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
        concepts: ConceptTargets | Sequence[ConceptTargets | None] | None = None,
        embeddings: EmbeddingTargets | Sequence[EmbeddingTargets | None] | None = None,
        view: tuple[int, Transform] | None = None,
        begun: Sequence[Sequence[ShardFacts]] | None = None,
        opened: Sequence[OpenSource] = (),
        device: torch.device = CPU,
    ):
        part = RankBatches(batch_size=batch_size, rank=rank, world=world, seed=seed)
        chosen = settings.subset or settings.selection
        self.subset = open_subset(chosen, repeats=bool(settings.selection)) if chosen else None
        """The uids of the samples to read. None selects all samples."""
        self.found = Found(self.subset) if self.subset is not None and not opened else None
        """Counts the uids that are in the shards. It is None without a subset or with `opened`."""
        self.sources = tuple(opened) or _open_sources(settings, begun, self.subset, self.found)
        self.held_out = sum(source.others for source in self.sources)
        self.streams = settings.streams or default_streams(
            self.sources, settings.shuffle, settings.cache_bytes
        )
        settings = replace(settings, streams=self.streams)
        _require_cache(settings, self.sources, self.streams, world)
        sizes = [
            [shard.rounds or (shard.samples,) for shard in source.shards] for source in self.sources
        ]
        total = settings.samples_per_epoch
        if settings.selection and settings.drop_last and total is None:
            # The next epoch begins with the samples that fill no batch, so that a run reads each as
            # often as selected.
            total = sum(map(sum, chain.from_iterable(sizes))) // part.whole * part.whole or None
        order = EpochOrder(
            sizes,
            weights=[source.weight for source in settings.sources if source.weight is not None]
            or None,
            total=total,
            seed=seed,
            window=settings.shuffle,
            streams=self.streams,
        )
        joined, taught = (
            _per_source(targets, len(self.sources)) for targets in (concepts, embeddings)
        )
        if view is None and any(
            each is not None and each.crop_scale is not None for each in taught
        ):
            raise ValueError(
                "the embeddings are of drawn crops: give the transform of a crop, `view`"
            )
        self._reader = Reader(
            settings,
            self.sources,
            joined,
            order,
            part,
            transform=transform,
            tokenizer=tokenizer,
            subset=self.subset,
            embeddings=taught,
            view=view,
        )
        super().__init__(settings, part, order.samples, self._reader, device)
        self._reader.require_fields()
        self.heads = heads_of(joined)
        """Head of the concept targets to the number of its concepts."""
        self.problems += [problem for source in self.sources for problem in source.problems]
        missing = _missing_targets(self.sources, joined, settings.max_bad_share)
        self.problems += [
            f"{name}: {Kind.MISSING_CONCEPTS}: it has no concept targets"
            for names in missing
            for name in sorted(names)
        ]
        # With the file names of the shards without.
        self._targets: list[list[tuple[StoredTargets | None, set[str]]]] = [
            [*zip(joined, missing, strict=True)],
            [*zip(taught, _missing_targets(self.sources, taught, 1.0), strict=True)],
        ]
        self.indexed = sum((Counter(source.bad) for source in self.sources), Counter[str]())
        self._prefetch = Prefetch(self._reader, self.batches_per_epoch)

    @property
    def contents(self) -> Sequence[str]:
        """Weight of each source, SHA-256 and samples of its shards, and the digest of the
        subset."""
        return [
            line
            for setting, source in zip(self._settings.sources, self.sources, strict=True)
            for line in (
                f"source {setting.weight}",
                *(f"{shard.sha256} {shard.samples}" for shard in source.shards),
            )
        ] + ([] if self.subset is None else [self.subset.contents])

    @property
    def remarks(self) -> Sequence[str]:
        """A line that counts the uids of the subset in the shards. It is missing without a subset
        or with `opened`."""
        return [] if self.found is None else [f"{self._settings.chosen_by}: {self.found}"]

    def without_targets(self, rank: int, world: int) -> list[Untaught]:
        """See `Loader.without_targets`."""
        return [
            self._untaught(number, targets, absent, rank, world)
            for kind in self._targets
            for number, (targets, absent) in enumerate(kind)
            if targets is not None
        ]

    def _untaught(
        self, source: int, targets: StoredTargets, absent: set[str], rank: int, world: int
    ) -> Untaught:
        shards = {n: shard for n, shard in enumerate(self.sources[source].shards) if shard.samples}
        there = np.array(
            [
                n
                for n, shard in shards.items()
                if not shard.left_out and shard.file.name not in absent
            ]
        )
        chosen = evenly(there, _LOOKED_AT)
        look = partial(self._reader.without_targets, targets, source)
        found = list(many_at_once(look, chosen.tolist()[rank::world]))
        lost = [shard for shard in shards.values() if shard.file.name in absent]
        return Untaught(
            source=self.sources[source].path,
            what=targets.what,
            remedy=targets.advice,
            samples=sum(shard.samples for shard in shards.values() if not shard.left_out),
            absent=sum(shard.samples for shard in lost),
            looked_at=sum(looked_at for looked_at, _, _ in found),
            without=sum(without for _, without, _ in found),
            first=next(
                (text for *_, text in found if text), f"shard {lost[0].file.name}" if lost else ""
            ),
        )

    def close(self) -> None:
        """End the workers and close the shards."""
        super().close()
        self._reader.close()


class Prefetch:
    """A thread that fetches the remote shards of an epoch's next shuffle window while the current
    one is read. Without it all workers would wait at the start of every window, which needs many
    new shards at once. The cache must hold two windows of every stream of this machine. No thread
    is started if all shards are local."""

    def __init__(self, reader: Reader, batches: int):
        self._batches = batches
        self._reader = reader.clone() if reader.reads_remote else None
        self._moved = threading.Condition()
        self._now: int | None = None  # the last batch returned, or None to stop
        self._thread: threading.Thread | None = None

    def at(self, epoch: int, number: int) -> None:
        """Note that a batch was returned, and start the thread if none runs."""
        if self._reader is None:
            return
        with self._moved:
            self._now = number
            self._moved.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, args=(self._reader, epoch, number), daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End the thread. The next call of `at` starts a new one."""
        with self._moved:
            self._now = None
            self._moved.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, reader: Reader, epoch: int, first: int) -> None:
        known: set[tuple[int, int]] = set()
        for number in range(first, self._batches):
            with self._moved:
                ahead = number - reader.window_batches
                # It is called here only, while `ahead` is this one.
                self._moved.wait_for(lambda: self._now is None or ahead <= self._now)  # noqa: B023
                if self._now is None:
                    return
            for source, shard in sorted(reader.remote_shards(epoch, number) - known):
                known.add((source, shard))
                try:
                    reader.fetch(source, shard)
                except DataError:
                    return  # the worker that needs the shard will report it


def _open_sources(
    settings: DataSettings,
    begun: Sequence[Sequence[ShardFacts]] | None,
    subset: Subset | None,
    found: Found | None,
) -> tuple[OpenSource, ...]:
    if begun is not None and len(begun) != len(settings.sources):
        raise BadSource(
            f"data.sources names {len(settings.sources)}; the run began with {len(begun)}"
        )
    facts: Sequence[Sequence[ShardFacts] | None] = begun or [None] * len(settings.sources)
    pairs = zip(settings.sources, facts, strict=True)
    opened = tuple(open_source(source, settings, of, subset, found) for source, of in pairs)
    unknown = set(settings.skip).difference(*(source.skipped for source in opened))
    if unknown:
        raise BadSource(
            f"data.skip names {min(unknown)}, which is the file name or path of no shard"
        )
    return opened


def _require_cache(
    settings: DataSettings, sources: Sequence[OpenSource], streams: int, world: int
) -> None:
    """Raise `BadSource` if the cache cannot hold the remote shards in use, which would then be
    fetched repeatedly."""
    # The fraction of the ranks on this machine. A stream on the border between two machines counts
    # for both.
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world)) / world
    needed = bytes_in_use(sources, settings.shuffle, streams, min(1.0, here + 1 / streams))
    if needed > settings.cache_bytes:
        raise BadSource(
            f"two windows of the shuffle are {needed / 2**30:.3g} GiB of remote shards on this"
            f" machine, data.cache_gib is {settings.cache_gib:.3g}: raise it, or lower"
            f" data.streams, now {streams}, or data.shuffle"
        )


def _missing_targets(
    sources: Sequence[OpenSource], targets: Sequence[StoredTargets | None], max_bad_share: float
) -> list[set[str]]:
    """Return the names of each source's shards without targets, if the source has targets. Raises
    `TooManyBad` if such shards hold more of a source than allowed, `ConceptMismatch` if all do or
    targets are of other shards, `StoreError` if targets at a URL cannot be listed."""
    found = []
    for source, known in zip(sources, targets, strict=True):
        if known is None:
            found.append(set[str]())
            continue
        present = {
            shard.file.name: shard
            for shard in source.shards
            if shard.samples and not shard.left_out
        }
        missing = known.missing({name: shard.sha256 for name, shard in present.items()})
        lost, samples = (
            sum(present[name].samples for name in names) for names in (missing, present)
        )
        if lost > max_bad_share * samples:
            raise TooManyBad(
                f"{source.path}: {len(missing):,} shards with {lost / samples:.2%} of the samples"
                f" have no {known.what}, more than data.max_bad_share {max_bad_share:.2%}; first:"
                f" {missing[0]}; run {known.remedy()} again"
            )
        if missing and len(missing) == len(present):
            raise ConceptMismatch(
                f"{source.path}: no shard has {known.what}; make them with {known.remedy()}"
            )
        found.append({*missing})
    return found


def _per_source(targets: Any, sources: int) -> list[Any]:
    if targets is None:
        return [None] * sources
    joined = list(targets) if isinstance(targets, (list, tuple)) else [targets]
    if len(joined) != sources:
        raise ValueError(
            f"{len(joined)} sets of targets for {sources} sources; give one each, None for none"
        )
    return joined
