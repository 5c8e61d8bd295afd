"""Filters of the user's own, added from outside by the documented seam: a module, a section in a preset."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.plugins import PluginError, load_plugin

MODULE = '''
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from filters.base import CaptionFilter, ImageFilter, register_filter


@register_filter
@dataclass(frozen=True, kw_only=True)
class Shouting(CaptionFilter):
    """Captions in capitals."""

    reason = "shouting"
    explanation = "Most of the caption is written in capitals <really>."
    needs_annotations = False
    max_proportion: float = 0.5

    def rejects(self, captions):
        texts = pc.fill_null(captions.rows["caption"], "").to_pylist()
        return np.array([sum(map(str.isupper, text)) > self.max_proportion * len(text) for text in texts], bool)


@register_filter
@dataclass(frozen=True, kw_only=True)
class Wide(ImageFilter):
    """Banners."""

    reason = "wide"
    explanation = "The image is a banner."
    max_ratio: float = 4.0

    def rejects(self, images):
        width, height = (np.asarray(images.records[name]) for name in ("width", "height"))
        return width > self.max_ratio * height
'''
CAPTIONS = ("a brown dog runs", "A BROWN DOG RUNS", "two cats sleep on a red sofa", "SALE NOW")


def _filter(folder: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", "--output", str(output), *arguments]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), str(folder)])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a module of filters, a preset and a manifest."""
    (tmp_path / "my_filters.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("shouting: {max_proportion: 0.6}\n", encoding="utf-8")
    rows = "".join(f"{number}\t{caption}\n" for number, caption in enumerate(CAPTIONS))
    (tmp_path / "rows.tsv").write_text("id\tcaption\n" + rows, encoding="utf-8")
    return tmp_path


def test_a_filter_of_ones_own_rejects_and_is_explained(own: Path) -> None:
    """In worker processes, which have never heard of it; in the funnel, the report and the provenance."""
    output = own / "out"
    arguments = ["--dataset", "custom", "--input", "rows.tsv", "--preset", "mine.yaml", "--plugin", "my_filters"]
    arguments += ["--stages", "captions,export", "--workers", "2", "--unit-rows", "2"]
    done = _filter(own, output, *arguments)
    assert done.returncode == 0, done.stderr
    rejected = pq.read_table(output / "rejected")
    found = dict(zip(rejected["caption"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    assert found["A BROWN DOG RUNS"] == "shouting"
    assert pq.read_table(output / "kept")["caption"].to_pylist() == [CAPTIONS[0], CAPTIONS[2]]
    steps = {step["reason"]: step for step in json.loads((output / "funnel.json").read_text())["steps"]}
    assert steps["shouting"]["stage"] == "captions" and steps["shouting"]["rejected"] == 1
    assert "written in capitals &lt;really&gt;" in (output / "report.html").read_text(encoding="utf-8")
    record = json.loads((output / "run.json").read_text())
    assert record["plugins"] == ["my_filters"]
    assert record["preset"]["filters"] == {"shouting": {"max_proportion": 0.6}}
    assert "shouting" in done.stdout

    again = _filter(own, output, *arguments)
    assert "nothing is left to do" in again.stdout

    (own / "mine.yaml").write_text("shouting: {max_proportion: 1.0}\n", encoding="utf-8")
    looser = _filter(own, output, *arguments)
    assert looser.returncode == 0 and "without a new parse" in looser.stdout
    assert "A BROWN DOG RUNS" in pq.read_table(output / "kept")["caption"].to_pylist()


def test_a_section_for_an_unknown_filter_and_a_plugin_that_is_not_there_are_refused(own: Path) -> None:
    arguments = ["--dataset", "custom", "--input", "rows.tsv", "--preset", "mine.yaml"]
    without = _filter(own, own / "out", *arguments)
    assert without.returncode == 2 and "unknown key shouting" in without.stderr
    wrong = _filter(own, own / "out", *arguments, "--plugin", "my_filter")
    assert wrong.returncode == 2 and "--plugin my_filter: ModuleNotFoundError" in wrong.stderr
    assert not (own / "out").exists()


def test_a_plugin_that_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match="broken_plugin: ZeroDivisionError: division by zero"):
        load_plugin("broken_plugin")
