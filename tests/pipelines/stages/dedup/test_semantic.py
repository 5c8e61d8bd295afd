"""Semantic duplicates: the rule as a plain loop says it, in tiles, in clusters, from files."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_diht.pipelines.stages.dedup import semantic
from open_diht.pipelines.stages.dedup.clusters import assign, cluster_count, train
from open_diht.pipelines.stages.dedup.semantic import (
    duplicates,
    groups_of,
    member_parts,
    member_type,
    near_copies,
    order_of,
)
from open_diht.pipelines.stages.vectors import unit_length

Against = Literal["kept", "all"]


def _vectors(seed: int, rows: int, dimension: int = 3) -> np.ndarray:
    """Few dimensions and a coarse grid: many rows are alike."""
    dice = np.random.default_rng(seed)
    return unit_length(np.round(dice.normal(size=(rows, dimension)) * 2) + 0.01)


def _plain(vectors: np.ndarray, order: np.ndarray, eps: float, against: Against) -> list[int]:
    """The rule, row by row: the first earlier row that is alike, and what stays in its place."""
    cosine = vectors @ vectors.T
    stays: dict[int, int] = {}
    for at, row in enumerate(order.tolist()):
        for other in order[:at].tolist():
            if cosine[row, other] > np.float32(1 - eps) and (
                against == "all" or stays[other] == -1
            ):
                stays[row] = other if stays[other] == -1 else stays[other]
                break
        else:
            stays[row] = -1
    return [stays[row] for row in range(len(vectors))]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(0, 30),
    eps=st.sampled_from([0.003, 0.05, 0.3]),
    against=st.sampled_from(["kept", "all"]),
    keep=st.sampled_from(["first", "far", "near"]),
)
def test_equal_to_the_plain_loop(
    seed: int, rows: int, eps: float, against: Against, keep: semantic.Keep
) -> None:
    vectors = _vectors(seed, rows)
    order = order_of(vectors[:, 0], keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "TILE", 4)
        patch.setattr(semantic, "BLOCK", 3)
        stays, cosines = near_copies(vectors, order, eps, against)
    assert stays.tolist() == _plain(vectors, order, eps, against)
    assert (cosines[stays >= 0] > 1 - eps).all()


def test_who_stays() -> None:
    cosines = np.array([0.5, 0.9, 0.1, 0.9], np.float32)
    assert order_of(cosines, "first").tolist() == [0, 1, 2, 3]
    assert order_of(cosines, "far").tolist() == [2, 0, 1, 3]
    assert order_of(cosines, "near").tolist() == [1, 3, 0, 2]


def test_a_chain_collapses_only_against_all() -> None:
    angles = np.deg2rad([0, 10, 20])
    chain = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    eps = 1 - float(np.cos(np.deg2rad(12)))
    assert near_copies(chain, np.arange(3), eps, "kept")[0].tolist() == [-1, 0, -1]
    assert near_copies(chain, np.arange(3), eps, "all")[0].tolist() == [-1, 0, 0]


def test_groups_of_clusters_from_files(monkeypatch):
    """Rows of several units and clusters: the same as each cluster by itself."""
    monkeypatch.setattr(semantic, "TILE", 4)
    monkeypatch.setattr(semantic, "BLOCK", 3)
    dimension = 3
    dice = np.random.default_rng(5)
    everything = []
    slices = []
    for unit in range(4):
        records = np.zeros(20, member_type(dimension))
        records["cluster"] = np.sort(dice.integers(0, 3, 20))
        records["ordinal"], records["uid_high"], records["uid_low"] = (
            np.arange(20),
            unit,
            np.arange(20),
        )
        records["vector"] = _vectors(unit, 20)
        slices.append((unit, records))
        everything += [(unit, record) for record in records]
    found = duplicates(slices, dimension, 0.1, "first", "kept").to_pylist()
    expected = []
    for cluster in range(3):
        mine = [(unit, record) for unit, record in everything if record["cluster"] == cluster]
        vectors = unit_length(np.stack([record["vector"] for _, record in mine]))
        for row, first in enumerate(_plain(vectors, np.arange(len(mine)), 0.1, "kept")):
            if first >= 0:
                (unit, record), (other, cited) = mine[row], mine[first]
                expected.append((unit, int(record["ordinal"]), other, int(cited["ordinal"])))
    got = [(row["unit"], row["ordinal"], row["first_unit"], row["first_ordinal"]) for row in found]
    assert got == sorted(expected) and len(got) > 5
    assert all(
        row["duplicate_of"] == f"{row['first_unit']:016x}{row['first_ordinal']:016x}"
        for row in found
    )
    assert all(row["similarity"] > 0.9 for row in found)


def test_no_members() -> None:
    assert duplicates([], 3, 0.1, "first", "kept").num_rows == 0


def test_numbers_of_clusters_and_groups() -> None:
    assert [cluster_count(rows, 0) for rows in (0, 1, 8_000, 8_001, 10**12)] == [1, 1, 1, 2, 50_000]
    assert cluster_count(100, 7) == 7 and cluster_count(5, 7) == 5
    assert groups_of(10, 1, 512, 2**20) == 1
    assert groups_of(10**9, 50_000, 512, 2**28) == semantic.PARTS
    parts = member_parts(np.arange(100), 100, 7)
    assert (np.diff(parts) >= 0).all() and set(parts.tolist()) == set(range(7))


def test_clustering_is_repeatable_and_finds_what_brute_force_finds() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install '.[score]'")
    dice = np.random.default_rng(0)
    centres = dice.normal(size=(40, 32))
    vectors = unit_length(
        centres[dice.integers(0, 40, 2_000)] + 0.5 * dice.normal(size=(2_000, 32))
    )
    copies = unit_length(vectors[:400] + 0.005 * dice.normal(size=(400, 32)))
    everything = np.concatenate([vectors, copies])
    centroids = train(everything[::2], 20, seed=3)
    assert np.array_equal(centroids, train(everything[::2], 20, seed=3))
    clusters, cosines = assign(everything, centroids)
    assert np.allclose(cosines, (everything * centroids[clusters]).sum(axis=1), atol=1e-5)
    brute = near_copies(everything, np.arange(len(everything)), 0.01, "kept")[0] >= 0
    found = np.zeros(len(everything), bool)
    for cluster in range(20):
        members = np.flatnonzero(clusters == cluster)
        found[members] = (
            near_copies(everything[members], np.arange(len(members)), 0.01, "kept")[0] >= 0
        )
    assert brute.sum() >= 390 and (found & brute).sum() / brute.sum() >= 0.95
    assert not (found & ~brute).any()
