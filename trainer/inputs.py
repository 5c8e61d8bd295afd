"""Open the data of a run: pairs from shards or by a loader of the user's own, and concept targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from open_diht.common.spelling import spelled
from open_diht.common.stores import translated
from open_diht.trainer.concepts import ConceptTargets, open_targets
from open_diht.trainer.config import Config, TransformSettings
from open_diht.trainer.data import BadSource, ConceptMismatch, DataSettings, Loader, ShardFacts, ShardLoader
from open_diht.trainer.data.shards import OpenSource
from open_diht.trainer.stores import StoreError, store_at
from open_diht.trainer.towers import imported_class
from open_diht.trainer.transforms import transform


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
    """Open the loader of `data.sources`, or the loader that `data.loader` names. Images are augmented for `training`.
    The other options go to the loader; see `ShardLoader`. Raises `DataError`, `WrongUse`, and `StoreError` if concept
    targets at a URL cannot be read."""
    if data.loader:
        try:
            own = imported_class(data.loader, Loader)
        except ValueError as error:
            raise BadSource(f"data.loader: {error}") from error
        return own(data, transforms, shape, training=training, concepts=concepts, **options)
    if len(shape) != 3:
        raise BadSource(f"the image tower takes features of shape {shape}: set data.loader, not data.sources")
    prepared = transform(transforms, shape[1], training=training)
    return ShardLoader(data, transform=prepared, concepts=concepts or None, begun=begun, opened=opened, **options)


def _no_answer(error: Exception) -> BadSource | None:
    """Return the error of a store that does not answer at the start of a run, as a `BadSource`."""
    remedy = "check the address, the network, and the store's credentials and endpoint"
    return BadSource(f"{error}; {remedy}") if isinstance(error, StoreError) else None


def resolved(config: Config) -> tuple[Config, str]:
    """Replace a `concepts.path` of auto by paths or "". Return the configuration, and a line that reports the choice.
    Raises `BadSource` if the store of the data cannot be reached."""
    path = config.concepts.path
    line = f"concept targets: {path}" if path else "concept distillation is not requested"
    if path == "auto" and config.data.loader:  # its path need not be a folder
        path, line = "", "no distillation: data.loader opens the pairs, so concepts.path names the targets"
    elif path == "auto":
        folders = [f"{place.rstrip('/')}/concepts" for place in config.data.places]
        with translated(_no_answer):
            path = ",".join(folders) if all(store_at(folder).exists("targets") for folder in folders) else ""
        line = f"concept targets: {path}"
        if not path:
            line = (
                f"no distillation: not all sources have concept targets, {', '.join(folders)} (`{spelled('concepts')}`)"
            )
    return replace(config, concepts=replace(config.concepts, path=path)), line


def concept_targets(config: Config) -> list[ConceptTargets]:
    """Open the concept targets of each data source. The list is empty without distillation. `concepts.path` must be
    resolved. Raises `ConceptMismatch` if targets are missing, unreadable or lack a trained head, or folders and sources
    differ in number; `BadSource` if their store cannot be reached."""
    paths = [path for path in config.concepts.path.split(",") if path]
    if not paths or not config.concepts.weights:
        return []
    if len(paths) != len(config.data.places):
        raise ConceptMismatch(f"concepts.path names {len(paths)} folders for {len(config.data.places)} data sources")
    with translated(_no_answer):
        targets = [open_targets(path) for path in paths]
    for path, each in zip(paths, targets, strict=True):
        missing = [name for name in config.concepts.weights if name not in each.heads]
        if missing:
            raise ConceptMismatch(
                f"concepts needs {', '.join(missing)}; {path} has {', '.join(each.heads) or 'no heads'}"
            )
    return targets
