"""negCLIPLoss against the formula as a textbook writes it, in double precision."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch is not installed: pip install '.[score]'")

from open_diht.pipelines.stages.score import cliploss
from open_diht.pipelines.stages.score.cliploss import Batch

Half = NDArray[np.float16]


def _pairs(count: int, seed: int = 0, width: int = 24) -> tuple[Half, Half]:
    """Unit vectors of images, and of captions that are somewhat like them."""
    dice = np.random.default_rng(seed)
    images = dice.normal(size=(count, width))
    texts = images + dice.normal(size=(count, width)) * dice.uniform(0.3, 3, size=(count, 1))
    return tuple(
        (one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float16)
        for one in (images, texts)
    )  # type: ignore[return-value]


def _textbook(images: Half, texts: Half, row: int, batch: list[int], t: float) -> float:
    """-t times the CLIP loss of a row in a batch that it is in, with means for sums."""
    v = images.astype(np.float64)
    w = texts.astype(np.float64)
    own = math.exp(v[row] @ w[row] / t)
    over_texts = sum(math.exp(v[row] @ w[j] / t) for j in batch) / len(batch)
    over_images = sum(math.exp(v[j] @ w[row] / t) for j in batch) / len(batch)
    return t * (math.log(own / over_texts) + math.log(own / over_images)) / 2


def _scores(
    images: Half, texts: Half, batch: list[int], t: float, rows: Any = None
) -> NDArray[np.float64]:
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    places = np.array([batch.index(row) if row in batch else -1 for row in rows], np.int64)
    known = Batch(images[batch], texts[batch])
    own = np.einsum("nd,nd->n", images[rows].astype(np.float64), texts[rows].astype(np.float64))
    return own - known.normalizers(images[rows], texts[rows], places, t)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
def test_equals_the_textbook(temperature: float) -> None:
    images, texts = _pairs(40)
    batch = [3, 17, 5, 38, 21, 9, 30, 2]
    found = _scores(images, texts, batch, temperature)
    for row in range(40):
        mine = batch if row in batch else [row, *batch[:-1]]  # of its batch a row is always one
        assert found[row] == pytest.approx(
            _textbook(images, texts, row, mine, temperature), abs=1e-12
        ), row


def test_a_row_depends_on_no_neighbour_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = _pairs(50, width=64)
    batch = list(range(0, 50, 3))
    whole = _scores(images, texts, batch, 0.01)
    for rows in ([7], [49, 3, 0], list(range(20, 50))):
        assert np.array_equal(_scores(images, texts, batch, 0.01, rows), whole[rows])
    monkeypatch.setattr(cliploss, "_CELLS", 3 * len(batch))
    assert np.array_equal(_scores(images, texts, batch, 0.01), whole)


def test_it_is_finite_where_the_textbook_overflows_and_zero_where_a_row_is_alone() -> None:
    images, texts = _pairs(10)
    assert np.isfinite(_scores(images, texts, list(range(10)), 1e-4)).all()
    assert _scores(images[:1], texts[:1], [0], 0.01).tolist() == [0.0]
