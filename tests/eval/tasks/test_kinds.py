"""The seam for tasks: what `docs/extend/task.md` says, done from outside the package."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from open_diht.eval import cli
from open_diht.eval.errors import WrongUse
from open_diht.eval.tasks import KINDS, Kind, load_suite, register

PAGE = Path(__file__).parents[3] / "docs" / "extend" / "task.md"


def snippets(language: str) -> list[str]:
    return re.findall(
        rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL
    )


@pytest.fixture
def run(tmp_path, tiny_folder, colour_set) -> Callable[[str], list[dict[str, Any]]]:
    """Runs a suite on coloured images; rows of results.json."""
    root = colour_set("colors")

    def evaluate(text: str) -> list[dict[str, Any]]:
        suite = tmp_path / "mine.yaml"
        output = tmp_path / "out"
        suite.write_text(text, encoding="utf-8")
        words = {
            "--model": tiny_folder,
            "--tasks": suite,
            "--data": root,
            "--output": output,
            "--device": "cpu",
        }
        words |= {"--cache": tmp_path / "cache", "--workers": 0}
        assert cli.main([str(word) for pair in words.items() for word in pair]) == 0
        assert "Colors" in (output / "report.html").read_text(encoding="utf-8")
        rows: list[dict[str, Any]] = json.loads(
            (output / "results.json").read_text(encoding="utf-8")
        )
        return rows

    return evaluate


@pytest.fixture
def nearest_neighbor() -> Iterator[None]:
    """The kind of the page."""
    exec(snippets("python")[0], {"__name__": "outside"})
    yield
    del KINDS["nearest_neighbor"]


def test_a_task_from_outside_is_in_the_results(run):
    row = run(snippets("yaml")[0])[0]
    assert (row["task"], row["kind"], row["metric"], row["n"]) == (
        "colors",
        "classification",
        "top1",
        12,
    )


@pytest.mark.usefixtures("nearest_neighbor")
def test_a_kind_from_outside_is_in_the_results(run, tmp_path):
    text = (
        snippets("yaml")[0]
        .replace("classification", "nearest_neighbor")
        .replace("top1", "same_class")
    )
    (row,) = run(text)
    assert (row["task"], row["kind"], row["metric"], row["n"]) == (
        "colors",
        "nearest_neighbor",
        "same_class",
        12,
    )
    # Three colours with a little noise: even a random model sees that.
    assert row["value"] == 1.0 and row["low"] < 1
    assert (tmp_path / "out" / "items" / "colors.npz").is_file()
    assert "Nearest neighbor" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    suite = tmp_path / "mine.yaml"
    suite.write_text(text.replace("same_class", "top1"), encoding="utf-8")
    with pytest.raises(WrongUse, match=r"task.metric is 'top1'; choose same_class"):
        load_suite(str(suite))


def test_names_are_unique():
    class Other(Kind):
        name = "classification"

        def measure(self, *given: Any) -> Any:
            """Measure nothing."""

    assert register(KINDS["classification"]) is KINDS["classification"]
    with pytest.raises(ValueError, match="a kind of task called classification already, Shipped"):
        register(Other())
