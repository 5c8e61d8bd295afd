"""Cues and the images that go with them: read as WinoGAViL is published, counted by hand, shown in
the report."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from open_diht.eval.data import DataSet
from open_diht.eval.errors import DataBroken, DataMissing
from open_diht.eval.features import FeatureCache
from open_diht.eval.report import write_report
from open_diht.eval.results import estimate_of
from open_diht.eval.selection import evaluate_association, prompt
from open_diht.eval.session import open_task
from open_diht.eval.tasks import KINDS, Source, load_suite
from tests.eval.conftest import COLOURS, a_task, paint
from tests.eval.test_zeroshot import collapsed

(WINOGAVIL,) = [task for task in load_suite("datacomp38").tasks if task.name == "winogavil"]
OPTIONS: dict[str, Any] = {**WINOGAVIL.sources[0].options, "at_least": 4}
TASK = a_task(
    "winogavil", "association", "jaccard", caption_templates=("{A} {}", "{}"),
    sources=(Source(layout="associations", path="winogavil", options=OPTIONS),),
)  # fmt: skip
NAMES = tuple(f"{colour} {number}" for number in range(4) for colour in COLOURS)


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as the authors publish them: lists as JSON in a CSV file."""
    for number, name in enumerate(NAMES):
        path = folder / "winogavil_images" / f"{name}.jpg"
        paint(path, name.split()[0], number)
    with (folder / "winogavil_dataset.csv").open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, ["candidates", "cue", "associations"])
        table.writeheader()
        table.writerows(
            {**row, **{name: json.dumps(row[name]) for name in ("candidates", "associations")}}
            for row in rows
        )


@pytest.fixture
def data(tmp_path, memo) -> DataSet:
    """Three boards, two cues each, and one with too few images."""
    rows = [{"candidates": NAMES[:3], "cue": "few", "associations": NAMES[:1]}]
    for board in range(3):
        names = NAMES[board : board + 6]
        rows.append({"candidates": names, "cue": f"Apple {board}", "associations": names[1:3]})
        rows.append(
            {
                "candidates": names[::-1],
                "cue": f"sky {board}",
                "associations": [names[4], names[0], names[5]],
            }
        )
    write(tmp_path / "data" / "winogavil", rows)
    return open_task(TASK, tmp_path / "data", memo)


def test_rows_become_cues_with_the_right_images_first(data):
    found = data.associations
    assert found is not None and data.items == len(found) == 6
    names = [Path(data.images.keys[one]).stem for one in found[1].images]
    assert (
        names[:3] == [NAMES[4], NAMES[0], NAMES[5]]
        and found[1].right == 3
        and sorted(names) == sorted(NAMES[:6])
    )
    assert [one.cluster for one in found] == [0, 0, 1, 1, 2, 2]


def test_the_nearest_images_are_chosen_as_many_as_people_chose(cache, data):
    outcome = evaluate_association(TASK, data, cache)
    first, plain = outcome.results
    assert (first.metric, plain.metric, first.n) == ("jaccard", "jaccard ({})", 6)
    images = cache.images(data.images).all()
    expected = []
    for one in data.associations or ():
        cosines = images[list(one.images)] @ cache.texts([prompt("{A} {}", one.cue)]).all()[0]
        chosen = np.isin(np.arange(len(cosines)), np.argsort(cosines)[-one.right :])
        expected.append(jaccard_score(np.arange(len(cosines)) < one.right, chosen))
    assert outcome.items is not None and outcome.items.hits == pytest.approx(expected)
    assert first.value == pytest.approx(np.mean(expected))
    kept = estimate_of(outcome.items, "jaccard")
    assert kept is not None and kept.value == first.value and len(kept.units) == 3
    # Two of six: 8 of 15 draws share one, a third each, and one shares both; three of six: 9 of 20
    # share one, 9 two.
    chance = ((8 / 15) / 3 + 1 / 15 + (9 / 20) / 5 + (9 / 20) / 2 + 1 / 20) / 2
    assert first.protocol["chance"] == pytest.approx(chance)


def test_cues_are_asked_with_their_article_in_lower_case():
    assert [prompt("{A} {}", cue) for cue in ("Apple", "werewolf")] == ["An apple", "A werewolf"]
    assert prompt("a photo of {a} {}.", "Ice") == "a photo of an ice."


def test_a_collapsed_model_finds_nothing(tmp_path, tiny, data):
    outcome = evaluate_association(
        TASK, data, FeatureCache(tmp_path / "f", collapsed(tiny, texts=True))
    )
    assert {one.value for one in outcome.results} == {0.0}


def test_a_sample_keeps_cues_whole(data):
    some = data.sampled(2)
    assert some.items == 2 and all(len(one.images) == 6 for one in some.associations or ())
    assert set(some.images.keys) <= set(data.images.keys) and len(some) <= 8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"associations": ["nobody"]}, "row 1: .*are not some of the candidates"),
        ({"associations": list(NAMES[:4])}, "row 1: .*are not some of the candidates"),
        ({"associations": []}, "row 1: .*are not some of the candidates"),
        ({"candidates": [NAMES[0], NAMES[0], NAMES[1]]}, "each named once"),
        ({"candidates": "red"}, "column 'candidates' has 'red', no list of names"),
    ],
)
def test_rows_that_cannot_be_asked_are_named(tmp_path, memo, changed, message):
    write(
        tmp_path / "winogavil",
        [{"candidates": NAMES[:4], "cue": "x", "associations": NAMES[:1], **changed}],
    )
    with pytest.raises(DataBroken, match=message):
        open_task(TASK, tmp_path, memo)


def test_images_that_are_not_there_are_missing_or_broken(tmp_path, memo, data):
    assert len(data)
    images = tmp_path / "data" / "winogavil" / "winogavil_images"
    (images / f"{NAMES[2]}.jpg").unlink()
    with pytest.raises(DataBroken, match=f"1 of 8 images are not there .*{NAMES[2]}"):
        open_task(TASK, tmp_path / "data", memo)
    images.rename(images.with_name("elsewhere"))
    with pytest.raises(DataMissing, match="paint some"):
        open_task(TASK, tmp_path / "data", memo)
    fewest = dataclasses.replace(TASK.sources[0], options={**OPTIONS, "at_least": 7})
    with pytest.raises(DataBroken, match="no cue has 7 candidates"):
        open_task(dataclasses.replace(TASK, sources=(fewest,)), tmp_path / "data", memo)


def test_examples_show_the_images_offered(cache, data, tmp_path):
    outcome = evaluate_association(TASK, data, cache)
    assert outcome.items is not None
    found = KINDS["association"].examples(TASK, data, outcome.items, cache)
    write_report([one.row() for one in outcome.results], tmp_path, examples={"winogavil": found})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (
        "Association" in page
        and page.count("<figure") == len(found)
        and "the last of its 2 images" in page
    )
