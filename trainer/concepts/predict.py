"""Store the teacher's predictions for every image: the k most probable concepts, in `targets/` of
`make concepts`."""

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from open_diht.common.progress import ProgressBar
from open_diht.trainer.concepts.heads import ROWS_AT_ONCE, Head
from open_diht.trainer.concepts.store import ConceptStore
from open_diht.trainer.concepts.targets import MANIFEST, VERSION, ShardTargets, about, packed
from open_diht.trainer.stores import store_at


def top_k(
    head: Head, features: npt.NDArray[np.float16], k: int, device: str = "cpu"
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float16]]:
    """Return the k most probable concepts of images with features (n, d). Ids are (n, k) uint32,
    the most probable first; probabilities (n, k) float16, renormalized to sum to 1 before rounding.
    If a head has fewer than k concepts, the rest is id 0 with probability 0."""
    n = len(features)
    kept = min(k, len(head.bias))
    ids = np.zeros((n, k), np.uint32)
    probabilities = np.zeros((n, k), np.float16)
    weight = head.weight.to(device)
    bias = head.bias.to(device)
    for first in range(0, n, ROWS_AT_ONCE):
        rows = torch.from_numpy(np.array(features[first : first + ROWS_AT_ONCE], np.float32)).to(
            device
        )
        values, places = (rows @ weight.T + bias).topk(kept, dim=1)
        ids[first : first + len(rows), :kept] = places.cpu().numpy()
        # The softmax of the k largest logits is the whole softmax, truncated and renormalized.
        probabilities[first : first + len(rows), :kept] = values.softmax(1).cpu().numpy()
    return ids, probabilities


def write_targets(
    store: ConceptStore, heads: dict[str, Head], *, heads_hash: str, k: int, device: str = "cpu"
) -> dict[str, Any]:
    """Write the missing and outdated targets of all shards, then the manifest, and delete targets
    of other shards."""
    folder = store_at(f"{store.folder}/targets")
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
        try:
            content = folder.read(name)
        except FileNotFoundError:
            content = b""
        known = about(content, heads)
        if not made_from.items() <= known.items() or known.get("version") != VERSION:
            shard = store.load(entry)
            ids = {}
            probabilities = {}
            for head, classifier in heads.items():
                ids[head], probabilities[head] = top_k(classifier, shard.features, k, device)
                ids[head][~shard.good], probabilities[head][~shard.good] = 0, 0
            content = packed(
                ShardTargets(entry["shard"], tuple(shard.keys), ids, probabilities), made_from
            )
            folder.write(content, name)
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
    folder.write((json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode(), MANIFEST)
    for name in {*folder.files()} - {MANIFEST} - {entry["file"] for entry in entries}:
        # These belong to removed shards.
        if name.endswith(".npz"):
            folder.delete(name)
    return manifest
