"""The teacher's predictions for every image, cut to the k likeliest concepts and stored beside the shards."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from open_diht.common.progress import ProgressBar
from open_diht.trainer.concepts.folder import Folder
from open_diht.trainer.concepts.heads import Head
from open_diht.trainer.concepts.store import ConceptStore, ShardConcepts
from open_diht.trainer.concepts.targets import MANIFEST, VERSION, ShardTargets, about, packed

ROWS_AT_ONCE = 1024


def top_k(
    head: Head, features: npt.NDArray[np.float16], k: int, device: str = "cpu"
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float16]]:
    """ids (n, k), likeliest first, and their probabilities (n, k), renormalised to sum to 1. Where a head has fewer
    than k concepts the rest is id 0 with probability 0."""
    n, kept = len(features), min(k, len(head.bias))
    ids, probabilities = np.zeros((n, k), np.uint32), np.zeros((n, k), np.float16)
    weight, bias = head.weight.to(device), head.bias.to(device)
    for first in range(0, n, ROWS_AT_ONCE):
        rows = torch.from_numpy(np.array(features[first : first + ROWS_AT_ONCE], np.float32)).to(device)
        values, places = (rows @ weight.T + bias).topk(kept, dim=1)
        ids[first : first + len(rows), :kept] = places.cpu().numpy()
        # The softmax of the k largest logits is the whole softmax, cut and renormalised.
        probabilities[first : first + len(rows), :kept] = values.softmax(1).cpu().numpy()
    return ids, probabilities


def shard_targets(name: str, shard: ShardConcepts, heads: dict[str, Head], k: int, device: str) -> ShardTargets:
    """The targets of one shard; zeros for images without features."""
    ids, probabilities = {}, {}
    for head, classifier in heads.items():
        ids[head], probabilities[head] = top_k(classifier, shard.features, k, device)
        ids[head][~shard.good], probabilities[head][~shard.good] = 0, 0
    return ShardTargets(name, tuple(shard.keys), ids, probabilities)


def write_targets(
    store: ConceptStore,
    heads: dict[str, Head],
    *,
    heads_hash: str,
    k: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """Write the targets of all shards that are not there yet, then the manifest. Returns the manifest."""
    folder = Folder(store.folder.url("targets"))
    entries = []
    for entry in ProgressBar(store.shards, desc="targets", unit="shards"):
        name = f"{entry['unit']}.npz"
        made_from = {
            "tar_sha256": entry["tar_sha256"],
            "vocabulary_hash": store.vocabulary["hash"],
            "features": entry["features"],
            "heads": heads_hash,
            "k": k,
        }
        content = _current(folder, name, made_from)
        if content is None:
            content = packed(shard_targets(entry["shard"], store.load(entry), heads, k, device), made_from)
            folder.publish(content, name)
        entries.append(
            {
                "shard": entry["shard"],
                "file": name,
                "samples": entry["rows"],
                "sha256": hashlib.sha256(content).hexdigest(),
                "tar_sha256": entry["tar_sha256"],
            }
        )
    manifest = {
        "version": VERSION,
        "vocabulary_hash": store.vocabulary["hash"],
        "heads": {head: store.heads[head] for head in heads},
        "heads_hash": heads_hash,
        "k": k,
        "teacher": store.about["teacher"],
        "samples": sum(entry["samples"] for entry in entries),
        "shards": entries,
    }
    folder.publish((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode(), MANIFEST)
    for stale in {*folder.names(ending=".npz")} - {entry["file"] for entry in entries}:
        folder.remove(stale)
    return manifest


def _current(folder: Folder, name: str, made_from: dict[str, Any]) -> bytes | None:
    """The content of a targets file that is there already and made from the same things."""
    try:
        content = folder.read(name)
    except FileNotFoundError:
        return None
    known = about(content)
    return content if made_from.items() <= known.items() and known.get("version") == VERSION else None
