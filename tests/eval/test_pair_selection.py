"""Pairs of images and captions: Winoground's three scores, by category, and clustered where images
are shared."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from open_diht.eval.data import DataSet, Pair
from open_diht.eval.examples import ComparedPair
from open_diht.eval.features import FeatureCache
from open_diht.eval.report import write_report
from open_diht.eval.selection import clusters_of, evaluate_pair_selection
from open_diht.eval.session import open_task
from open_diht.eval.tasks import KINDS, Source
from tests.eval.conftest import COLOURS, a_task, paint
from tests.eval.test_zeroshot import collapsed

OPTIONS = {
    "files": ["p.jsonl"], "images": ["{image_0}", "{image_1}"],
    "captions": ["{caption_0}", "{caption_1}"], "category": "{kind}",
}  # fmt: skip
TASK = a_task(
    "paired",
    "pair_selection",
    "group_score",
    sources=(Source(layout="pairs", path="paired", options=OPTIONS),),
)


@pytest.fixture
def data(tmp_path, memo) -> DataSet:
    """Twelve pairs of two colours."""
    rows = []
    for number in range(12):
        row = {"kind": "even" if number % 2 == 0 else "odd"}
        for side, colour in enumerate((list(COLOURS) * 5)[number : number + 2]):
            path = tmp_path / "data" / "paired" / f"{number}_{side}.png"
            paint(path, colour, 2 * number + side)
            row |= {f"image_{side}": path.name, f"caption_{side}": f"thing {number} in {colour}"}
        rows.append(row)
    (tmp_path / "data" / "paired" / "p.jsonl").write_text(
        "\n".join(map(json.dumps, rows)), encoding="utf-8"
    )
    return open_task(TASK, tmp_path / "data", memo)


def test_the_three_scores_of_all_pairs_and_the_task_s_own_of_each_category(cache, data):
    outcome = evaluate_pair_selection(TASK, data, cache)
    found: dict[str, Any] = {one.metric: one for one in outcome.results}
    assert list(found) == [
        "group_score",
        "text_score",
        "image_score",
        "group_score (even)",
        "group_score (odd)",
    ]
    assert [one.n for one in outcome.results] == [12, 12, 12, 6, 6]
    images, (first, *_) = cache.images(data.images).all(), data.pairs
    captions = cache.texts(first.captions).all()
    cosines = images[list(first.images)] @ captions.T
    text = cosines[0, 0] > cosines[0, 1] and cosines[1, 1] > cosines[1, 0]
    of_image = cosines[0, 0] > cosines[1, 0] and cosines[1, 1] > cosines[0, 1]
    assert outcome.items is not None and outcome.items.hits[0] == float(text and of_image)
    assert found["group_score"].protocol["chance"] == pytest.approx(1 / 6)
    assert found["text_score"].protocol["chance"] == 0.25

    assert found["group_score"].value == pytest.approx(outcome.items.hits.mean())
    assert found["group_score"].value <= min(found["text_score"].value, found["image_score"].value)


def test_a_collapsed_model_keeps_nothing_apart(tmp_path, tiny, data):
    outcome = evaluate_pair_selection(
        TASK, data, FeatureCache(tmp_path / "f", collapsed(tiny, texts=True))
    )
    assert {one.value for one in outcome.results} == {0.0}


def test_pairs_that_share_an_image_are_one_observation():
    pairs = [
        Pair(str(a), (a, b), ("x", "y"), "") for a, b in ((0, 1), (2, 3), (1, 4), (5, 4), (6, 7))
    ]
    clusters = clusters_of(pairs)
    assert clusters[0] == clusters[2] == clusters[3] and len(np.unique(clusters)) == 3


def test_the_template_of_the_task_is_what_is_asked(cache, data):
    task = dataclasses.replace(TASK, metric="image_score", caption_templates=("a photo of {}",))
    outcome = evaluate_pair_selection(task, data, cache)
    assert outcome.results[0].metric == "image_score"
    assert outcome.results[0].protocol["caption_template"] == "a photo of {}"


def test_examples_show_both_images_with_both_captions(cache, data, tmp_path):
    outcome = evaluate_pair_selection(TASK, data, cache)
    assert outcome.items is not None
    found = KINDS[TASK.kind].examples(TASK, data, outcome.items, cache)
    assert found and all(isinstance(one, ComparedPair) for one in found)
    write_report([one.row() for one in outcome.results], tmp_path, examples={"paired": found})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (
        "Pair selection" in page
        and page.count("<figure") == len(found)
        and "caption is nearer" in page
    )
