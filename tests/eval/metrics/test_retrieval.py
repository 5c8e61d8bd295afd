"""Ranks in retrieval: several captions per image, ties against the model, tiles of any size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open_diht.eval.metrics import BLOCK_ROWS, ArrayRows, tiles
from open_diht.eval.metrics.retrieval import hits, image_to_text_ranks, text_to_image_ranks


def exact(scores: list[list[float]]) -> tuple[ArrayRows, ArrayRows]:
    """Images and captions whose products are `scores` (n, m)."""
    matrix = np.array(scores, dtype=np.float32)
    return ArrayRows(np.eye(len(matrix), dtype=np.float32)), ArrayRows(matrix.T.copy())


# Three images with two captions each; rows are images.
SCORES = [
    [0.9, 0.1, 0.8, 0.0, 0.2, 0.3],  # its captions 0, 1: the best is first
    [0.5, 0.6, 0.4, 0.55, 0.1, 0.2],  # its captions 2, 3: 0.55 is behind 0.6
    [0.7, 0.6, 0.5, 0.4, 0.3, 0.35],  # its captions 4, 5: 0.35 is behind four
]
IMAGE_OF = np.array([0, 0, 1, 1, 2, 2])


def test_three_images_with_two_captions_each_by_hand():
    images, captions = exact(SCORES)
    assert image_to_text_ranks(images, captions, IMAGE_OF).tolist() == [0, 1, 4]
    assert text_to_image_ranks(images, captions, IMAGE_OF).tolist() == [0, 2, 2, 0, 0, 0]
    assert hits(np.array([0, 1, 4]), 1).mean() == pytest.approx(1 / 3)
    assert hits(np.array([0, 1, 4]), 5).mean() == 1.0


@pytest.mark.parametrize(
    ("strict", "to_text", "to_image"),
    [(False, [0, 2, 4], [0, 0, 1, 1, 2, 2]), (True, [4] * 3, [2] * 6)],
)
def test_of_equal_scores_those_of_lower_index_are_ahead_and_strictly_all(strict, to_text, to_image):
    images, captions = exact([[0.5] * 6] * 3)
    assert image_to_text_ranks(images, captions, IMAGE_OF, strict=strict).tolist() == to_text
    assert text_to_image_ranks(images, captions, IMAGE_OF, strict=strict).tolist() == to_image


@pytest.mark.parametrize(("n", "width"), [(2049, 384), (4097, 768)])
def test_equal_vectors_score_the_same_in_every_block(n, width):
    vector = np.random.default_rng(0).normal(size=(1, width)).astype(np.float32)
    same = ArrayRows(np.repeat(vector, n, axis=0))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # the kernels of several threads round by shape
    try:
        assert hits(image_to_text_ranks(same, same, np.arange(n)), 1).sum() == 1
        assert hits(text_to_image_ranks(same, same, np.arange(n)), 1).sum() == 1
    finally:
        torch.set_num_threads(threads)


def test_an_image_without_a_caption_is_an_error():
    images, captions = exact(SCORES)
    with pytest.raises(ValueError, match="image 2 has no caption"):
        image_to_text_ranks(images, captions, np.array([0, 0, 1, 1, 1, 1]))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from([4, 40, 400, 1 << 20]),
)
def test_tiles_of_any_size_and_ranks_shared_out_give_the_same(seed, n, per_image, tile_bytes):
    generator = np.random.default_rng(seed)
    # Whole numbers: products are exact and often equal.
    vectors = generator.integers(-2, 3, size=(n + n * per_image, 4)).astype(np.float32)
    images = ArrayRows(vectors[:n])
    captions = ArrayRows(vectors[n:])
    image_of = generator.permutation(np.repeat(np.arange(n), per_image))
    for ranks_of, queries, items in (
        (image_to_text_ranks, n, captions.count),
        (text_to_image_ranks, captions.count, n),
    ):
        whole = ranks_of(images, captions, image_of)
        parts = [
            ranks_of(images, captions, image_of, part=[block])
            for block in tiles(queries, items, tile_bytes)
        ]
        assert np.concatenate(parts).tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("queries", "items", "most"),
    [(5, 3, 5), (100_000, 10, BLOCK_ROWS), (3, 10**9, 1), (10_000, 100_000, 41)],
)
def test_blocks_cover_all_queries_and_are_bounded_both_ways(queries, items, most):
    blocks = tiles(queries, items)
    assert [index for block in blocks for index in block] == list(range(queries))
    assert max(map(len, blocks)) == most


def test_parts_of_a_tile_are_compared_as_the_whole_is(monkeypatch):
    generator = np.random.default_rng(0)
    vectors = generator.integers(-1, 2, size=(60, 3)).astype(np.float32)
    images = ArrayRows(vectors[:12])
    captions = ArrayRows(vectors[12:])
    image_of = np.repeat(np.arange(12), 4)
    for strict in (False, True):
        whole = [
            ranks(images, captions, image_of, strict=strict)
            for ranks in (image_to_text_ranks, text_to_image_ranks)
        ]
        for part in (1, 30, 100):
            monkeypatch.setattr("open_diht.eval.metrics.retrieval.PART", part)
            parts = [
                ranks(images, captions, image_of, strict=strict)
                for ranks in (image_to_text_ranks, text_to_image_ranks)
            ]
            assert all((one == other).all() for one, other in zip(whole, parts, strict=True))
        monkeypatch.undo()
