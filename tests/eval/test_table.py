"""Several models in one table, as people paste it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from open_diht.eval.table import main
from tests.eval.test_compare import row, write


@pytest.fixture
def folders(tmp_path) -> list[str]:
    def of(task: str, value: float | None, **protocol: Any) -> dict[str, Any]:
        ends = {} if value is None else {"low": value - 0.02, "high": value + 0.02}
        return {**row(task, "top1", value, **protocol), **ends}

    models = {
        "one": [of("cats", 0.5), of("dogs_2", 0.3), row("cats", "top5", 0.9)],
        "two": [of("cats", 0.6), of("dogs_2", 0.31), of("birds", None, missing="away")],
        "new": [of("cats", 0.9, rules=7), of("fish", 0.2)],
    }
    return [str(write(tmp_path / name, rows, {})) for name, rows in models.items()]


def test_markdown_has_every_task_once_and_marks_what_was_asked_otherwise(folders, capsys):
    assert main(folders) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "| task | metric | one | two | new |",
        "| --- | --- | --: | --: | --: |",
        "| cats | top1 | 50.0 ± 2.0 | 60.0 ± 2.0 | 90.0 ± 2.0* |",
        "| dogs_2 | top1 | 30.0 ± 2.0 | 31.0 ± 2.0 | - |",
        "| fish | top1 | - | - | 20.0 ± 2.0 |",
    ]
    assert "other data, rules" in said.err


def averaged(
    folder: Path, values: dict[str, float | None], of: Any = ("a", "b", "c"), **protocol: Any
) -> str:
    """Results with an average `mine`; None is a task without data."""
    write(folder, [row(task, "top1", value, **protocol) for task, value in values.items()], {})
    (folder / "averages.json").write_text(json.dumps({"mine": of}))
    return str(folder)


def across(folders: list[str], capsys: Any) -> list[str]:
    assert main(folders) == 0
    return [
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("| mine", "| imagenet_r | eff"))
    ]


def test_averages_of_other_tasks_do_not_share_a_row(tmp_path, capsys):
    one = averaged(tmp_path / "one", {"a": 0.9, "b": 0.5, "c": None})
    other = averaged(tmp_path / "other", {"a": None, "b": 0.5, "c": 0.1})
    assert across([one, other], capsys) == [
        "| mine | average of 2 of 3: a, b | 70.0 | - |",
        "| mine | average of 2 of 3: b, c | - | 30.0 |",
    ]
    values: dict[str, float | None] = {"a": 0.9, "b": 0.5, "c": 0.1}
    one = averaged(tmp_path / "one", values, ["a", ["b", "c"]])
    other = averaged(tmp_path / "other", values, [["a", "b"], "c"])
    assert across([one, other], capsys) == [
        "| mine | average of 2: a, b/c | 60.0 | - |",
        "| mine | average of 2: a/b, c | - | 40.0 |",
    ]


def test_numbers_over_several_tasks_are_marked_where_data_differ(tmp_path, capsys):
    values: dict[str, float | None] = {
        "a": 0.9,
        "b": 0.5,
        "c": 0.1,
        "imagenet1k": 0.6,
        "imagenet_r": 0.7,
    }
    sampled = {"images_sha256": "a sample", "labels_sha256": "l"}
    same = averaged(tmp_path / "same", values)
    first = averaged(tmp_path / "first", values)
    other = averaged(tmp_path / "other", values, data=sampled)
    robust, mine = across([first, same, other], capsys)
    assert mine == "| mine | average of 3 | 50.0 | 50.0 | 50.0* |"
    assert [cell.endswith("*") for cell in robust.strip("| ").split(" | ")[2:]] == [
        False,
        False,
        True,
    ]


def test_csv_has_the_numbers_as_they_are(folders, capsys):
    assert main([*folders, "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [one["task"] for one in rows] == ["cats", "dogs_2", "fish"]
    assert (
        float(rows[0]["two"]) == 0.6
        and float(rows[0]["two low"]) == 0.58
        and rows[2]["one high"] == ""
    )


def test_every_model_has_a_name_of_its_own(tmp_path, capsys, monkeypatch):
    places = [tmp_path / name for name in ("v1/run", "v2/run", "v2/other/run", "here")]
    for number, place in enumerate(places):
        write(place, [row("cats", "top1", number / 10)], {})
    monkeypatch.chdir(tmp_path / "here")
    assert main([*map(str, places[:3]), ".", "../v1/run", "--format", "csv"]) == 0
    (one,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    names = ("v1/run", "v2/run", "other/run", "here")
    assert [float(one[name]) for name in names] == [0, 0.1, 0.2, 0.3] and set(names) < set(one)
    assert len(one) == 2 + 3 * 4  # the folder that was named twice has one name


def test_a_bar_in_the_name_of_a_folder_begins_no_cell(tmp_path, capsys):
    write(tmp_path / "a|b", [row("cats", "top1", 0.5)], {})
    assert main([str(tmp_path / "a|b")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == r"| task | metric | a\|b |"


def test_latex_is_a_tabular_with_its_letters_escaped(folders, capsys):
    assert main([*folders, "--format", "latex"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("\\begin{tabular}{llrrr}") and said.rstrip().endswith("\\end{tabular}")
    assert "cats & top1 & 50.0 $\\pm$ 2.0 & 60.0 $\\pm$ 2.0 & 90.0 $\\pm$ 2.0* \\\\" in said
    assert "dogs\\_2 &" in said


def test_a_page_has_every_model_and_number_and_loads_nothing(folders, capsys):
    assert main([*folders, "--format", "html"]) == 0
    page = capsys.readouterr().out
    assert (
        "<title>Evaluation of 3 models</title>" in page
        and page.count('<td class="number">') == 3 * 3
    )
    assert all(f">{name}</bdi></th>" in page for name in ("one", "two", "new"))
    assert "50.0 \u00b1 2.0" in page and "90.0 \u00b1 2.0*" in page
    assert page.count('class="track"') == 6 and "://" not in page and "<script" not in page


def test_wrong_use_and_torn_results_are_one_line(folders, tmp_path, capsys):
    assert main([*folders, "--format", "xls"]) == 2
    assert (
        main([str(tmp_path / "nowhere")]) == 2
        and main([str(tmp_path / "one" / "results.json")]) == 2
    )
    (tmp_path / "one" / "results.json").write_text("[{")
    assert main(folders) == 1
    assert [line.startswith("error: ") for line in capsys.readouterr().err.splitlines()] == [
        True
    ] * 4
