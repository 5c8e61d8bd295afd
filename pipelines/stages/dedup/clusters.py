"""K-means on the unit sphere: which images can be near copies of which. Needs faiss (extra `score`)."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from open_diht.common.installation import remedy

Vectors = NDArray[np.float32]

PER_CLUSTER = 8_000
"""Members wished of a cluster: SemDeDup's 440 million pairs in 50,000 clusters."""
MOST_CLUSTERS = 50_000
ITERATIONS = 20
_CHUNK = 8_192


class FaissMissing(RuntimeError):
    """faiss is not installed; the message says how to install it."""


def faiss() -> ModuleType:
    """The library.

    Raises:
        FaissMissing: it is not installed.
    """
    try:
        import faiss as module
    except ImportError as error:
        raise FaissMissing(
            f"semantic de-duplication needs faiss, which is not installed; install it with: {remedy('score')}"
        ) from error
    return module


def cluster_count(rows: int, asked: int) -> int:
    """The number of clusters: `asked`, or where that is 0 one for every `PER_CLUSTER` rows, at most `MOST_CLUSTERS`;
    never more than rows, at least 1."""
    return max(1, min(asked or min(-(-rows // PER_CLUSTER), MOST_CLUSTERS), rows))


def unit_length(vectors: NDArray[np.floating]) -> Vectors:
    """Vectors (n, d) as float32 of length 1. A zero vector stays zero: it is like nothing."""
    wide = np.asarray(vectors, np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-12))


def train(sample: Vectors, clusters: int, seed: int) -> Vectors:
    """Centroids (clusters, d) of unit length, by spherical k-means on a sample (n, d) of unit length.

    The same sample and seed give the same centroids on the same machine.

    Raises:
        ValueError: fewer rows than clusters.
    """
    if len(sample) < clusters:
        raise ValueError(f"{len(sample)} rows do not make {clusters} clusters; take a larger sample or fewer clusters")
    if clusters == 1:
        return unit_length(sample.mean(axis=0, keepdims=True))
    kmeans = faiss().Kmeans(
        sample.shape[1],
        clusters,
        niter=ITERATIONS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, len(sample)),  # the sample is the caller's choice
    )
    kmeans.train(np.ascontiguousarray(sample, np.float32))
    return unit_length(kmeans.centroids)


def assign(vectors: Vectors, centroids: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest centroid of each vector (n, d) of unit length and the cosine to it; shapes (n,)."""
    if len(centroids) == 1:
        return np.zeros(len(vectors), np.int64), (vectors @ centroids[0]).astype(np.float32)
    index = faiss().IndexFlatIP(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, np.float32))
    places, cosines = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    for first in range(0, len(vectors), _CHUNK):
        part = slice(first, first + _CHUNK)
        cosine, place = index.search(np.ascontiguousarray(vectors[part], np.float32), 1)
        places[part], cosines[part] = place[:, 0], cosine[:, 0]
    return places, cosines
