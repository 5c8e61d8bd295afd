"""A loader of pairs in memory, from the file that `Pairs.save` writes.

It gathers batches without workers or decoding. The arrays of the file are:

    features  (n, d) float16
    images    (n, h, w, 3) uint8, instead of features
    caption   (m,) text
    image     (m,) row of features or images for each caption
    key       (m,) text, unique

Several captions of an image are several pairs with the same image hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from open_diht.common.crops import crop_of
from open_diht.common.files import sha256_file
from open_diht.common.shard_index import caption_hash, hash64
from open_diht.trainer.concepts.targets import ConceptTargets
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.data import (
    BadSource,
    Batch,
    ConceptMismatch,
    DataSettings,
    EpochOrder,
    Loader,
    RankBatches,
)
from open_diht.trainer.data.reader import columns_of
from open_diht.trainer.embeddings import EmbeddingTargets

_DRAWS = 3


class StoredTransform:
    """A transform of stored inputs, (b, d) float32 or (b, 3, h, w) uint8, into the tower's input.
    Features are not changed. Images are cropped to the tower's size, in the center. In training
    they are cropped at random, and a fraction `transform.flip` of them is flipped."""

    def __init__(self, settings: TransformSettings, shape: Sequence[int], *, training: bool):
        self._shape = tuple(shape)
        self._training = training
        self._flip = settings.flip

    def takes(self, stored: Sequence[int]) -> bool:
        """Return whether inputs stored in this shape fit the tower."""
        found = tuple(stored)
        if len(found) == 1:
            return found == self._shape
        return len(self._shape) == 3 and all(
            a >= b for a, b in zip(found, self._shape, strict=True)
        )

    def __call__(self, stored: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """Crop and flip by `draws` (b, 3) in [0, 1): top and left of the crop, and the flip."""
        return stored if stored.dim() == 2 else self._cropped(stored, draws)

    def _cropped(self, images: Tensor, draws: NDArray[np.float64]) -> Tensor:
        _, height, width = self._shape
        # Number of positions of the crop, minus 1.
        free = np.array([images.shape[2] - height, images.shape[3] - width])
        corners = (
            draws[:, :2] * (free + 1) if self._training else np.tile(free / 2, (len(images), 1))
        )
        result = images.new_empty((len(images), *self._shape))
        for row, (top, left) in enumerate(corners.astype(np.int64).tolist()):
            result[row] = images[row, :, top : top + height, left : left + width]
        if self._training and self._flip:
            mirrored = torch.from_numpy(np.flatnonzero(draws[:, 2] < self._flip))
            result[mirrored] = result[mirrored].flip(3)
        return result


class FeatureLoader(Loader):
    """The loader that the configurations of the claims name; any `data.shuffle` above 0 shuffles
    all pairs.

    Raises:
        BadSource: The file does not fit the image tower, or its pairs make no batch.
        ConceptMismatch: A pair has no concept targets, or no pair has embeddings.
    """

    def __init__(
        self,
        settings: DataSettings,
        transforms: TransformSettings,
        shape: tuple[int, ...],
        *,
        training: bool,
        concepts: Sequence[ConceptTargets],
        tokenizer: Callable[[Sequence[str]], Tensor],
        batch_size: int,
        rank: int,
        world: int,
        seed: int,
        device: torch.device,
        embeddings: Sequence[EmbeddingTargets] = (),
    ):
        path = Path(settings.path)
        with np.load(path) as arrays:
            captions = [text.strip() for text in arrays["caption"].tolist()]
            self._keys = arrays["key"].tolist()
            stored = arrays["images" if "images" in arrays else "features"]
            self._rows = arrays["image"]
        pixels = stored.ndim == 4
        inputs = (
            np.ascontiguousarray(stored.transpose(0, 3, 1, 2))
            if pixels
            else stored.astype(np.float32)
        )
        self._inputs = torch.from_numpy(inputs)
        self._transform = StoredTransform(transforms, shape, training=training)
        if not self._transform.takes(inputs.shape[1:]):
            raise BadSource(
                f"{path} holds inputs of shape {inputs.shape[1:]}; the image tower takes {shape}"
            )
        self._sha256 = sha256_file(path)
        pairs = len(captions)
        window = pairs if settings.shuffle else 0
        part = RankBatches(batch_size=batch_size, rank=rank, world=world, seed=seed)
        total = settings.samples_per_epoch
        self._order = EpochOrder(
            [[pairs]], weights=None, total=total, seed=seed, window=window, streams=1
        )
        super().__init__(replace(settings, workers=0), part, self._order.samples, self, device)
        self.state: Callable[[str], None] = lambda text: None
        self._texts = tokenizer(captions)
        self._caption_hash = torch.tensor(
            [caption_hash(text.encode()) for text in captions], dtype=torch.int64
        )
        of_images = np.array([hash64(row.tobytes()) for row in stored], np.uint64)[self._rows]
        self._image_hash = torch.from_numpy(of_images.view(np.int64))
        self._concepts = self._joined(path.name, concepts[0]) if concepts else {}
        self._embeddings = embeddings[0] if embeddings else None
        self._teacher = self._embedded(path.name, settings) if embeddings else ()

    @property
    def contents(self) -> Sequence[str]:
        """One line: the SHA-256 of the file and its number of pairs."""
        return [f"features {self._sha256} {len(self._keys)}"]

    def batch(self, epoch: int, number: int) -> tuple[Batch, list[Any]]:
        """Return this rank's part of a batch, and an empty list, since no sample in memory is
        bad."""
        first, last, mine = self._part.rows(number, self._order.samples)
        places = self._order.batch(epoch, first, last)[2][mine]
        draws = np.random.default_rng((self._part.seed, epoch, number)).random(
            (last - first, _DRAWS)
        )[mine]
        at = torch.from_numpy(places)
        crops = np.zeros(len(places), np.int64)
        stored = self._embeddings
        if stored is not None and stored.crop_scale is not None:
            # Stored images have one size: only the place is drawn.
            crops = np.random.default_rng((self._part.seed, epoch, number, 1)).integers(
                stored.crops, size=last - first
            )
            crops = crops[mine]
            for row, (place, crop) in enumerate(zip(places.tolist(), crops.tolist(), strict=True)):
                draws[row, :2] = crop_of(stored.seed, self._keys[place], crop)[2:]
        return (
            Batch(
                images=self._transform(self._inputs[torch.from_numpy(self._rows[places])], draws),
                texts=self._texts[at],
                caption_hash=self._caption_hash[at],
                image_hash=self._image_hash[at],
                keys=[self._keys[place] for place in places.tolist()],
                concepts={
                    head: (ids[at], values[at]) for head, (ids, values) in self._concepts.items()
                },
                teacher=tuple(
                    each[at, torch.from_numpy(np.minimum(crops, each.shape[1] - 1))]
                    for each in self._teacher
                ),
            ),
            [],
        )

    def _embedded(self, name: str, settings: DataSettings) -> tuple[Tensor, Tensor]:
        """Return embeddings of all pairs: images (m, crops, e) and captions (m, 1, e), with zeros
        where there are none."""
        assert self._embeddings is not None
        targets, (_, columns) = (
            self._embeddings.shard(name, self._sha256),
            columns_of([self._embeddings], settings),
        )
        if targets is None:
            raise ConceptMismatch(f"{name} has no embedding targets; make them again")
        places = {key: row for row, key in enumerate(targets.keys)}
        rows = np.array([places.get(key, -1) for key in self._keys], np.int64)
        if (rows < 0).all():
            raise ConceptMismatch(f"no pair of {name} has embeddings; make them again")
        of_images, of_texts = (
            each[rows] for each in (targets.image, targets.text[:, [*columns.values()]])
        )
        of_images[rows < 0], of_texts[rows < 0] = 0, 0
        return torch.from_numpy(of_images), torch.from_numpy(of_texts)

    def _joined(self, name: str, concepts: ConceptTargets) -> dict[str, tuple[Tensor, Tensor]]:
        targets = concepts.shard(name, self._sha256)
        if targets is None:
            raise ConceptMismatch(f"{name} has no concept targets; make them again")
        rows = targets.rows(self._keys)
        found = {head: targets.head(head, rows) for head in concepts.heads}
        return {
            head: (torch.from_numpy(ids), torch.from_numpy(values))
            for head, (ids, values) in found.items()
        }
