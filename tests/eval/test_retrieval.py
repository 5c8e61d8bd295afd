"""Retrieval tasks: both directions, several captions per image, with and without the caption
template."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from open_diht.eval.features import FeatureCache
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.retrieval import evaluate_retrieval
from open_diht.eval.session import open_task
from tests.eval.conftest import a_task, image
from tests.eval.test_zeroshot import collapsed
from tests.webdatasets import write_webdataset

TASK = a_task("told", "retrieval", "recall@1", direction="image_to_text")


@pytest.fixture
def data(tmp_path, memo) -> Any:
    samples = [
        (
            f"p{index}",
            {
                "jpg": jpeg(image("red", index)),
                "txt": "".join(f"{word} {index}\n" for word in "abc"),
            },
        )
        for index in range(20)
    ]
    write_webdataset(tmp_path / "data" / "told", samples, kind="retrieval")
    return open_task(TASK, tmp_path / "data", memo)


@pytest.mark.parametrize(("direction", "n"), [("image_to_text", 20), ("text_to_image", 60)])
def test_recall_at_1_5_and_10_with_and_without_the_caption_template(cache, data, direction, n):
    task = dataclasses.replace(
        TASK, direction=direction, caption_templates=("{}", "a photo of {}.")
    )
    outcome: Any = evaluate_retrieval(task, data, cache)
    bare = [f"recall@{k}" for k in (1, 5, 10)]
    assert [result.metric for result in outcome.results] == bare + [
        f"{name} (a photo of {{}}.)" for name in bare
    ]
    assert {result.n for result in outcome.results} == {n}
    assert [result.protocol["caption_template"] for result in outcome.results] == ["{}"] * 3 + [
        "a photo of {}."
    ] * 3
    assert outcome.results[0].value <= outcome.results[1].value <= outcome.results[2].value
    assert outcome.items.hits.mean() == outcome.results[0].value
    assert (
        len(set(outcome.items.keys.tolist())) == n
        and len(set(outcome.items.clusters.tolist())) == 20
    )


def test_only_the_first_captions_of_an_image_are_kept_where_the_task_says_so(cache, data):
    task = dataclasses.replace(TASK, direction="text_to_image", captions_per_image=2)
    outcome: Any = evaluate_retrieval(task, data, cache)
    assert outcome.results[0].n == 40 and outcome.results[0].protocol["captions_per_image"] == 2


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
@pytest.mark.parametrize(("strict", "share"), [(False, 1 / 20), (True, 0.0)])
def test_a_collapsed_model_scores_chance_and_strictly_nothing(
    tmp_path, tiny, data, direction, strict, share
):
    cache = FeatureCache(tmp_path / "f", collapsed(tiny, texts=True))
    outcome: Any = evaluate_retrieval(
        dataclasses.replace(TASK, direction=direction), data, cache, strict
    )
    assert outcome.results[0].value == pytest.approx(share)
    assert outcome.results[0].protocol["chance"] == pytest.approx(1 / 20)


def measure(captions: int, folder: Path) -> None:
    """Runs in a process of its own."""
    from benchmarks.figures.parts.evaluation import peak_of

    (folder / f"{captions}.txt").write_text(str(peak_of("ours", captions)))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_captions(forks, tmp_path):
    """Encoding, ranking both ways, intervals: what a caption costs is its name and its rank, not
    its 2 KiB of features nor its row of scores (82 MiB and 160 MiB more at 40,000 of them)."""
    peaks = []
    for captions in (2_000, 42_000):
        forks.call(__file__, "measure", captions, tmp_path, said=tmp_path / "said.txt")
        peaks.append(float((tmp_path / f"{captions}.txt").read_text()))
    assert peaks[1] - peaks[0] < 40, peaks
