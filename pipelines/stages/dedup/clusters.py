"""K-means on the unit sphere, to find images that may be near copies. More than one cluster needs
faiss (extra `score`)."""

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from open_diht.common.installation import remedy
from open_diht.pipelines.stages.vectors import Vectors, unit_length

PER_CLUSTER = 8_000
"""Desired rows per cluster, about as in SemDeDup: 440 million pairs in 50,000 clusters."""
# The number of SemDeDup; more make k-means slow.
MOST_CLUSTERS = 50_000
# Not measured; faiss's default is 25.
ITERATIONS = 20
_CHUNK = 8_192


class FaissMissing(RuntimeError):
    """The error that faiss cannot be imported. The message says how to install it."""


def faiss() -> ModuleType:
    """Return the faiss module, or raise FaissMissing."""
    try:
        import faiss as module
    except ImportError as error:
        raise FaissMissing(
            "semantic de-duplication needs faiss, which cannot be imported; install it with:"
            f" {remedy('score')}"
        ) from error
    return module


def cluster_count(rows: int, asked: int) -> int:
    """Return the number of clusters, from 1 to `rows`. 0 means one per `PER_CLUSTER` rows, up to
    `MOST_CLUSTERS`."""
    return max(1, min(asked or min(-(-rows // PER_CLUSTER), MOST_CLUSTERS), rows))


def train(sample: Vectors, clusters: int, seed: int) -> Vectors:
    """Return centroids (clusters, d) of unit length, by spherical k-means of a sample (n, d) of
    unit length. A centroid whose mean is zero stays zero. The same sample and seed give the same
    centroids on the same machine.
    """
    if len(sample) < clusters:
        raise ValueError(
            f"{len(sample)} rows do not make {clusters} clusters; take a larger sample or fewer"
            " clusters"
        )
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
    """Return for each vector of unit length the number of its nearest centroid and the cosine to
    that; shapes (n,)."""
    if len(centroids) == 1:
        return np.zeros(len(vectors), np.int64), (vectors @ centroids[0]).astype(np.float32)
    index = faiss().IndexFlatIP(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, np.float32))
    places = np.empty(len(vectors), np.int64)
    cosines = np.empty(len(vectors), np.float32)
    for first in range(0, len(vectors), _CHUNK):
        part = slice(first, first + _CHUNK)
        cosine, place = index.search(np.ascontiguousarray(vectors[part], np.float32), 1)
        places[part], cosines[part] = place[:, 0], cosine[:, 0]
    return places, cosines
