"""`FeatureLoader`: batches of cached features, or small images, from memory; the same contract as `ShardLoader`.

Captions become ids once. A batch is then a few gathers: no worker, no decoding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from open_diht.trainer.data.base import Loader, check_place
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.data.errors import ConceptMismatch
from open_diht.trainer.data.features import FeatureFile, read_features
from open_diht.trainer.data.feed import CPU, Feed
from open_diht.trainer.data.order import EpochOrder
from open_diht.trainer.data.reader import Bad, Concepts, Tokenizer
from open_diht.trainer.data.settings import DataSettings

InputTransform = Callable[[Tensor, npt.NDArray[np.float64]], Tensor]
"""Stored inputs (b, ...) and draws (b, 3), uniform in [0, 1), of each sample, to what the image tower takes."""
_DRAWS = 3


class FeatureLoader(Loader):
    """Reads cached features.

    Args:
        settings: what is read; of the order `shuffle` says whether there is one other than that of the files, all of
            them in one window.
        batch_size: samples of a batch on each rank.
        rank, world: which rank of how many this is.
        seed: of order and augmentation.
        transform: stored inputs of a batch, and three random numbers of each sample, to inputs of the image tower.
        tokenizer: captions to (n, context) int64.
        concepts: concept targets of the files, which then name all pairs.
        device: where batches are handed out; for a GPU the next one is copied while one is computed.

    Raises:
        BadSource, ConceptMismatch: the data cannot be used as asked.
    """

    def __init__(
        self,
        settings: DataSettings,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        transform: InputTransform,
        tokenizer: Tokenizer,
        concepts: Concepts | None = None,
        device: torch.device = CPU,
    ):
        check_place(batch_size, rank, world, seed)
        self._files = read_features(settings.features, settings.split)
        pairs = sum(len(file) for file in self._files)
        self.held_out = sum(file.others for file in self._files)
        window = pairs if settings.shuffle else 0
        self._order = EpochOrder(
            [[pairs]], weights=None, total=settings.samples_per_epoch, seed=seed, window=window, streams=1
        )
        super().__init__(settings, batch_size=batch_size, world=world, samples=self._order.samples)
        self._rank, self._seed, self._transform = rank, seed, transform
        self.state: Callable[[str], None] = lambda text: None
        self._feed: Feed[Batch] = Feed(self, replace(settings, workers=0), device)
        before = np.cumsum([0, *(len(file.inputs) for file in self._files)])
        self._rows = np.concatenate([file.rows + at for file, at in zip(self._files, before, strict=False)])
        self._inputs = (
            torch.cat([file.inputs for file in self._files]) if len(self._files) > 1 else self._files[0].inputs
        )
        self._keys = [key for file in self._files for key in file.keys]
        self._texts = tokenizer([text for file in self._files for text in file.captions])
        self._caption_hash, self._image_hash = (
            torch.from_numpy(np.concatenate([getattr(file, name) for file in self._files]))
            for name in ("caption_hash", "image_hash")
        )
        self._concepts = _joined(self._files, concepts) if concepts is not None else {}

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of the inputs: (d,), or (3, h, w)."""
        return tuple(self._inputs.shape[1:])

    @property
    def contents(self) -> Sequence[str]:
        """SHA-256 and pairs of each file."""
        return [f"features {file.sha256} {len(file)}" for file in self._files]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches `start`, `start + 1`, ... of an epoch for this rank."""
        self._check_position(epoch, start)
        batches = self._feed(epoch, start, self.batches_per_epoch)
        while True:
            began = time.perf_counter()
            made = next(batches, None)
            self.waited_s += time.perf_counter() - began
            if made is None:
                return
            batch, _ = made
            self.read["ok"] += len(batch)
            yield batch

    def batch(self, epoch: int, number: int) -> tuple[Batch, list[Bad]]:
        """A batch of an epoch; nothing is bad of what is in memory."""
        whole = self._batch_size * self._world
        first = number * whole
        last = min(first + whole, self._order.samples)
        mine = slice((last - first) * self._rank // self._world, (last - first) * (self._rank + 1) // self._world)
        places = self._order.batch(epoch, first, last)[2][mine]
        draws = np.random.default_rng((self._seed, epoch, number)).random((last - first, _DRAWS))[mine]
        at = torch.from_numpy(places)
        return Batch(
            images=self._transform(self._inputs[torch.from_numpy(self._rows[places])], draws),
            texts=self._texts[at],
            caption_hash=self._caption_hash[at],
            image_hash=self._image_hash[at],
            keys=[self._keys[place] for place in places.tolist()],
            concepts={head: (ids[at], values[at]) for head, (ids, values) in self._concepts.items()},
        ), []


def _joined(files: Sequence[FeatureFile], concepts: Concepts) -> dict[str, tuple[Tensor, Tensor]]:
    """Ids and probabilities of all pairs, by head. Raises ConceptMismatch where a file has no targets."""
    parts: dict[str, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]] = {}
    for file in files:
        targets = concepts.shard(file.name, file.sha256)
        if targets is None:
            raise ConceptMismatch(f"there are no concept targets of {file.name}, of data.features; make them anew")
        rows = targets.rows(file.keys)
        for head in concepts.heads:
            parts.setdefault(head, []).append(targets.head(head, rows))
    return {
        head: (torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(probabilities)))
        for head, (ids, probabilities) in ((head, zip(*found, strict=True)) for head, found in parts.items())
    }
