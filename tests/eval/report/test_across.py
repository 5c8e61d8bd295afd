"""Numbers over several tasks: the average that a suite defines, and over how much of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.eval.report import write_report
from open_diht.eval.report.across import across
from open_diht.eval.report.data import group_tasks
from open_diht.eval.results import Items, read_items
from open_diht.eval.table import main
from open_diht.eval.tasks import load_suite, suite_files
from tests.eval.report.test_report import row

DATACOMP = load_suite("datacomp38")
TASKS = [task.name for task in DATACOMP.tasks]


def rows(**values: float | None) -> list[dict[str, Any]]:
    return [row(name, value=values.get(name, 0.5)) for name in TASKS]


def average(found: list[dict[str, Any]], folder: Path) -> Any:
    (one,) = [one for one in across(group_tasks(found), folder) if one.name == "datacomp38"]
    return one


def test_the_average_is_over_38_entries(tmp_path):
    assert len(DATACOMP.average) == 38
    names = [
        name for part in DATACOMP.average for name in ([part] if isinstance(part, str) else part)
    ]
    assert sorted(names) == sorted(TASKS)
    one = average(rows(), tmp_path)
    assert one.value == pytest.approx(0.5) and one.metric == "average of 38"


def test_both_directions_of_retrieval_are_one_entry(tmp_path):
    assert average(rows(coco_t2i=0.0, coco_i2t=0.0), tmp_path).value == pytest.approx(0.5 * 37 / 38)
    assert average(rows(coco_t2i=0.0), tmp_path).value == pytest.approx((0.5 * 37 + 0.25) / 38)


def test_an_entry_that_was_not_measured_is_said_and_not_counted(tmp_path):
    one = average(rows(coco_t2i=None, mnist=None), tmp_path)
    assert one.metric == "average of 36 of 38" and one.value == pytest.approx(0.5)
    assert "coco_t2i/coco_i2t" in one.how and "mnist" in one.how


def test_parts_on_the_same_images_are_not_independent(tmp_path):
    draw = np.random.default_rng(0)
    for name in TASKS:
        hits = draw.random(40) < 0.5
        if name == "clevr_distance":  # right on the images on which the other task is
            hits = read_items(tmp_path / "items" / "clevr_counts.npz").hits
        what = np.zeros(40, dtype=np.int64)
        keys = np.array([str(number) for number in range(40)])
        Items(keys=keys, hits=hits * 1.0, clusters=np.arange(40), predicted=what, label=what).write(
            tmp_path / "items" / f"{name}.npz"
        )
    own = {name: read_items(tmp_path / "items" / f"{name}.npz").hits.mean() for name in TASKS}

    def width(**images: str) -> float:
        found = [
            row(name, value=own[name], data={"images_sha256": images.get(name, name)})
            for name in TASKS
        ]
        one = average(found, tmp_path)
        return float(one.high - one.low)

    # Two of 38 equal parts vary together: the variance is that of 36 single parts and a double one.
    together = width(clevr_counts="clevr", clevr_distance="clevr")
    apart = width()
    assert together / apart == pytest.approx((40 / 38) ** 0.5, rel=0.01)


def test_tasks_that_are_not_the_suite_have_no_average_of_it(tmp_path):
    assert not [
        one for one in across(group_tasks(rows()[1:]), tmp_path) if one.name == "datacomp38"
    ]


def test_the_average_of_a_users_suite_is_reported(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    out = tmp_path / "out"
    tasks = "tasks: ['diht29:cifar10', 'datacomp38:mnist', 'datacomp38:eurosat']"
    file.write_text(
        f"name: mine\nabout: x\n{tasks}\naverage: [cifar10, [mnist, eurosat]]", encoding="utf-8"
    )
    found = [row("cifar10", value=0.8), row("mnist", value=0.5), row("eurosat", value=0.1)]
    write_report(found, out, suites=suite_files(f"demo, {file}"))
    assert "| mine | average of 2 | **55.0** |" in (out / "results.md").read_text(encoding="utf-8")
    assert main([str(out)]) == 0
    assert "| mine | average of 2 | 55.0 |" in capsys.readouterr().out
    (out / "averages.json").write_text('{"mine": 3}', encoding="utf-8")
    assert main([str(out)]) == 1
    assert "averages.json.mine is 3; it must be a list" in capsys.readouterr().err
    write_report(found, out)
    assert "mine" not in (out / "results.md").read_text(encoding="utf-8"), (
        "another run took its place"
    )


def test_the_report_and_the_table_have_them(tmp_path, capsys):
    write_report(rows(), tmp_path)
    told = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "## Across tasks" in told and "| datacomp38 | average of 38 | **50.0** |" in told
    assert "Across tasks" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert (
        "| imagenet_r | effective robustness |" in said
        and "| datacomp38 | average of 38 | 50.0" in said
    )
