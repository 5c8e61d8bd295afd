"""What loaders share: how many batches an epoch has, and the counting of what was read and what was bad."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from open_diht.trainer.data.batch import Batch
from open_diht.trainer.data.errors import BadSource, TooManyBad
from open_diht.trainer.data.settings import DataSettings
from open_diht.trainer.data.shards import OpenSource


class Loader(ABC):
    """An epoch's batches for one rank, from any position: each a function of (seed, epoch, number of the batch, global
    batch size)."""

    sources: tuple[OpenSource, ...] = ()
    """The shards of each source; none where nothing is read from shards."""
    held_out: int = 0
    """Samples of the other part of the split: the held-out ones, where the loader reads those to train on."""
    streams: int | None = None
    """Stretches of the shards that are read side by side."""

    def __init__(self, settings: DataSettings, *, batch_size: int, world: int, samples: int):
        """`batch_size`: of each rank; `samples`: of an epoch, before the last batch is dropped."""
        self._settings, self._batch_size, self._world = settings, batch_size, world
        self.batches_per_epoch, self.samples_per_epoch = self._lengths(samples)
        self.problems: list[str] = []
        """The first errors in words."""
        self.indexed: Counter[str] = Counter()
        """Samples that are left out from the start, by kind; for all ranks."""
        self.read: Counter[str] = Counter({"ok": 0})
        """Samples that this loader has handed out (`ok`), and those in whose place others came, by kind."""
        self.lost = 0
        """Those of the epoch that is read."""
        self.waited_s = 0.0
        """Seconds in which the caller waited for batches."""
        self._resumed: tuple[int, int] | None = None

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches `start`, `start + 1`, ... of an epoch for this rank."""

    @property
    @abstractmethod
    def contents(self) -> Sequence[str]:
        """Lines that tell the data from others: hashes and sizes, in the order in which they are read."""

    @property
    def remarks(self) -> Sequence[str]:
        """What people should know of the data before the run begins."""
        return []

    def close(self) -> None:  # noqa: B027 a loader from memory has nothing to close
        """Nothing is read any more."""

    @property
    def counts(self) -> dict[str, int]:
        """Samples by what became of them: `ok`, or an error (see `Kind`); what was left out and what was read."""
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

    def _check_position(self, epoch: int, start: int) -> None:
        if epoch < 0 or not 0 <= start <= self.batches_per_epoch:
            raise ValueError(f"epoch {epoch}, batch {start}: an epoch has {self.batches_per_epoch} batches")

    def _lengths(self, samples: int) -> tuple[int, int]:
        """Batches of an epoch, and their samples over all ranks: with drop_last floor(samples / (b world)) batches."""
        whole = self._batch_size * self._world
        batches = samples // whole if self._settings.drop_last else -(-samples // whole)
        if not batches:
            raise BadSource(
                f"an epoch of {samples:,} samples does not fill one global batch of {self._batch_size} x {self._world}"
                ": lower the batch size, or read more data"
            )
        return batches, batches * whole if self._settings.drop_last else samples


def check_place(batch_size: int, rank: int, world: int, seed: int) -> None:
    """Raises ValueError for a batch size, a rank or a seed that does not exist."""
    if batch_size < 1 or not 0 <= rank < world:
        raise ValueError(f"batch size {batch_size}, rank {rank} of {world}: need batch size >= 1, 0 <= rank < world")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed {seed} is not in [0, 2^63)")
