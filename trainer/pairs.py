"""The pairs that a run reads: from shards, or from features in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from open_diht.trainer.concepts import ConceptTargets
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.data import BadSource, DataSettings, FeatureLoader, Loader, ShardFacts, ShardLoader
from open_diht.trainer.data.shards import OpenSource
from open_diht.trainer.transforms import StoredTransform, transform


def open_pairs(
    data: DataSettings,
    transforms: TransformSettings,
    shape: tuple[int, ...],
    *,
    training: bool,
    concepts: Sequence[ConceptTargets] = (),
    begun: Sequence[Sequence[ShardFacts]] | None = None,
    opened: Sequence[OpenSource] = (),
    **options: Any,
) -> Loader:
    """The loader that `data` asks for, of inputs for an image tower that takes `shape`; `training`: with augmentation.

    `begun` and `opened` are those of `ShardLoader`. `options` go to the loader: batch_size, rank, world, seed,
    tokenizer, device. Raises `DataError`.
    """
    if data.features:
        prepare = StoredTransform(transforms, shape, training=training)
        loader = FeatureLoader(data, transform=prepare, concepts=next(iter(concepts), None), **options)
        if not prepare.takes(loader.stored):
            raise BadSource(f"data.features holds inputs of shape {loader.stored}; the image tower takes {shape}")
        return loader
    if len(shape) != 3:
        raise BadSource(f"the image tower takes features of shape {shape}: set data.features, not data.sources")
    prepared = transform(transforms, shape[1], training=training)
    return ShardLoader(data, transform=prepared, concepts=concepts or None, begun=begun, opened=opened, **options)
