"""Numbers by group and macro F1, from data to results: counted again by hand, kept for averages and
comparisons."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from open_diht.eval.comparison import compare
from open_diht.eval.data import DataSet, Memo
from open_diht.eval.errors import DataBroken, DataMissing
from open_diht.eval.features import FeatureCache
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.results import INTERVAL, estimate_of, read_items
from open_diht.eval.session import open_task
from open_diht.eval.tasks import Source, Task, load_suite
from open_diht.eval.zeroshot import evaluate_classification
from tests.eval.conftest import COLOURS, a_task, image, paint
from tests.webdatasets import numbers_member, write_webdataset

REGIONS = ("region 0", "region 1", "region 2")


def grouped_task(metric: str, **options: Any) -> Task:
    return a_task(
        "grouped",
        "classification",
        metric,
        sources=(Source(layout="webdataset", path="grouped", options=options),),
    )


WORST = grouped_task("worst_group_top1", group=0, group_name="region")


@pytest.fixture
def root(tmp_path) -> Path:
    """Eighty images of three classes: 40 and 36 of two regions, four of a third; always four of a
    burst."""
    samples = []
    for index in range(80):
        beside = numbers_member(0 if index < 40 else 1 if index < 76 else 2, index // 4)
        colour = tuple(COLOURS)[index % 3]
        samples.append(
            (
                f"s{index:03d}",
                {"jpg": jpeg(image(colour, index)), "cls": str(index % 3), "npy": beside},
            )
        )
    write_webdataset(
        tmp_path / "data" / "grouped",
        samples,
        class_names=tuple(COLOURS),
        templates=["a {c} thing."],
    )
    return tmp_path / "data"


def by_metric(
    task: Task, root: Path, memo: Memo, cache: FeatureCache
) -> tuple[dict[str, Any], Any, DataSet]:
    data = open_task(task, root, memo)
    outcome = evaluate_classification(task, data, cache)
    return {one.metric: one for one in outcome.results}, outcome.items, data


def test_the_worst_group_counted_by_hand(root, memo, cache):
    found, items, data = by_metric(WORST, root, memo, cache)
    right = (items.predicted == data.labels).astype(float)
    of = [right[:40].mean(), right[40:76].mean(), right[76:].mean()]
    first = next(iter(found.values()))
    assert (
        first.metric == "worst_group_top1"
        and first.value == pytest.approx(min(of))
        and first.n == 80
    )
    assert first.low <= first.value <= first.high
    assert [found[f"top1 ({name})"].value for name in REGIONS] == pytest.approx(of)
    large = found["worst_group_top1 (groups of 30 images or more)"]
    assert large.value == pytest.approx(min(of[:2])) and large.n == 76
    record = first.protocol
    assert (
        record["groups"] == dict(zip(REGIONS, (40, 36, 4), strict=True))
        and "each group" in record["interval"]
    )


def test_images_without_groups_have_no_worst_one(root, memo, cache):
    found, _, data = by_metric(grouped_task("top1"), root, memo, cache)
    assert not any("group" in metric for metric in found)
    with pytest.raises(DataBroken, match="has no groups of images"):
        evaluate_classification(WORST, data, cache)


@pytest.mark.parametrize("name", ["iwildcam", "fmow", "dollar_street", "geode"])
def test_the_shipped_tasks_measure_sets_in_datacomp_s_layout(name, tmp_path, memo, cache):
    (task,) = [one for one in load_suite("datacomp38").tasks if one.name == name]
    samples = []
    classes = task.classes or 0
    for index in range(24):
        beside = numbers_member(index % 4, index // 2, 2016, index % classes)
        members = {"jpg": jpeg(image("red", index)), "cls": str(index % classes), "npy": beside}
        samples.append((f"s{index:03d}", members))
    names = [f"thing {number}" for number in range(classes)]
    write_webdataset(
        tmp_path / task.sources[0].path, samples, class_names=names, templates=["a {c}."]
    )
    first, *others = evaluate_classification(task, open_task(task, tmp_path, memo), cache).results
    assert (
        first.metric == task.metric
        and first.value is not None
        and first.protocol["templates"]["count"] == 1
    )
    told = {one.metric for one in others}
    assert (
        name == "iwildcam"
        or {
            f"{task.metric.removeprefix('worst_group_')}"
            f" ({task.sources[0].options['group_name']} 3)"
        }
        <= told
    )


def test_macro_f1_is_scikit_learn_s_and_a_burst_is_one_observation(root, memo, cache):
    found, items, data = by_metric(grouped_task("macro_f1", burst=1), root, memo, cache)
    expected = f1_score(data.labels, items.predicted, average="macro", zero_division=0)
    first = next(iter(found.values()))
    assert first.metric == "macro_f1" and first.value == pytest.approx(expected)
    assert (
        first.protocol["bursts"] == 20 == len(np.unique(items.clusters))
        and first.protocol["chance"] < 0.5
    )
    alone, _, _ = by_metric(grouped_task("macro_f1"), root, memo, cache)
    assert alone["macro_f1"].value == first.value and alone["top1"].protocol["interval"] == INTERVAL
    assert found["top1"].value == alone["top1"].value and found["top1"].low != alone["top1"].low


@pytest.mark.parametrize(
    "task", [WORST, grouped_task("macro_f1", burst=1)], ids=lambda one: one.metric
)
def test_items_give_the_number_again_and_two_models_are_tested(task, root, memo, cache, tmp_path):
    outcome = evaluate_classification(task, open_task(task, root, memo), cache)
    assert outcome.items is not None
    for name in ("one", "other"):
        items = outcome.items
        if name == "other":
            wrong = (items.label + 1) % 3
            worse = np.where(np.arange(80) % 2, wrong, items.predicted)
            items = dataclasses.replace(
                items, predicted=worse, hits=(worse == items.label).astype(float)
            )
        items.write(tmp_path / name / "items" / "grouped.npz")
        kept = estimate_of(read_items(tmp_path / name / "items" / "grouped.npz"), task.metric)
        assert kept is not None
        first = {**outcome.results[0].row(), "value": kept.value}
        (tmp_path / name / "results.json").write_text(json.dumps([first]), encoding="utf-8")
        if name == "one":
            assert kept.value == pytest.approx(outcome.results[0].value)
    (told,) = compare(tmp_path / "one", tmp_path / "other").tasks
    assert told.test == "paired t" and told.p is not None and not told.note
    assert told.difference == pytest.approx((told.b or 0) - (told.a or 0))


def test_a_folder_says_its_groups_in_a_table(tmp_path, memo, cache):
    for number, colour in enumerate(tuple(COLOURS) * 2):
        path = tmp_path / "mine" / "test" / colour / f"{number}.png"
        paint(path, colour, number)
    task = a_task(
        "mine", "classification", "worst_group_top1", templates=("a {} thing",),
        sources=(Source(layout="folder", path="mine", options={"groups": "groups.tsv"}),),
    )  # fmt: skip
    with pytest.raises(DataMissing, match=r"mine/groups.tsv is not there"):
        open_task(task, tmp_path, memo)
    rows = [
        f"{colour}/{number}.png\t{'north' if number < 3 else 'south'}"
        for number, colour in enumerate(COLOURS)
    ]
    table = tmp_path / "mine" / "groups.tsv"
    table.write_text("\n".join(["image\tgroup", *rows]), encoding="utf-8")
    with pytest.raises(DataBroken, match=r"no group for 3 of 6 images, as blue/5.png"):
        open_task(task, tmp_path, memo)
    table.write_text("\n".join(["image\tgroup", *rows, "red/3.png"]), encoding="utf-8")
    with pytest.raises(DataBroken, match=r"no group for 3 of 6 images, as blue/5.png"):
        open_task(task, tmp_path, memo)
    rows += [f"{colour}/{number + 3}.png\tsouth" for number, colour in enumerate(COLOURS)]
    table.write_text("\n".join(["image\tgroup", *rows]), encoding="utf-8")
    data = open_task(task, tmp_path, memo)
    assert data.groups == ("north", "south") * 3
    assert {one.metric for one in evaluate_classification(task, data, cache).results} >= {
        "top1 (north)",
        "top1 (south)",
    }
    table.write_text("image\tregion\n", encoding="utf-8")
    with pytest.raises(DataBroken, match="has no group for 6 of 6"):
        open_task(task, tmp_path, memo)
