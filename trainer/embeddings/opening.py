"""Open stored embeddings, in this program's format or in DataCompDR's."""

from __future__ import annotations

from pathlib import Path

from open_diht.trainer.concepts.targets import MANIFEST
from open_diht.trainer.embeddings.datacompdr import ReinforcedTargets
from open_diht.trainer.embeddings.targets import EmbeddingTargets
from open_diht.trainer.stores import store_at


def open_embeddings(location: str | Path) -> EmbeddingTargets:
    """Open the embeddings in the folder `embeddings` of `make concepts` or in its `targets/`, or a
    folder of tars in the format of DataCompDR, at a path or an fsspec URL.

    Args:
        location: the folder or its URL.

    Returns:
        The targets; files are read shard by shard.

    Raises:
        ConceptMismatch: no targets can be read, or they have another version.
        WrongUse: a URL cannot be used.
        StoreError: the store of a URL failed.
    """
    store = store_at(location)
    if not (store.exists("targets") or store.exists(MANIFEST)):
        # In a fixed order, as a resumed run compares the list.
        tars = {
            name: size
            for name, size in sorted(store.sizes().items())
            if name.endswith(".tar") and "/" not in name
        }
        if tars:
            return ReinforcedTargets(store, tars)
    return EmbeddingTargets.open(location)
