"""Filters of the user's own, those of `docs/extend/filter.md`: a module, a section in a preset."""

import json
import os
import re
import subprocess
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.common.command_line import WrongUse
from open_diht.common.plugins import PluginError, Registry, load_plugin
from open_diht.filters.base import (
    Bools,
    CaptionEvidence,
    CaptionFilter,
    ImageEvidence,
    register_filter,
)
from open_diht.filters.presets import BadPreset, load_preset
from tests.pipelines.conftest import NOTHING_LEFT

Command = Callable[..., "subprocess.CompletedProcess[str]"]
PAGE = (Path(__file__).parents[2] / "docs" / "extend" / "filter.md").read_text(encoding="utf-8")
(MODULE,) = re.findall(r"```{.python .compile}\n(.*?)```", PAGE, re.DOTALL)
(PRESET,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
MANY = "a dog, a cat, a horse, a cow, a sheep, a duck, a goat and a hen run past a barn"
CAPTIONS = ("a brown dog runs", MANY, "two cats sleep on a red sofa", "SALE NOW")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    module = MODULE.replace("image shows", "image shows <really>")  # what the report has to escape
    (tmp_path / "my_filters.py").write_text(module, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(PRESET, encoding="utf-8")
    rows = "".join(f"{number}\t{caption}\n" for number, caption in enumerate(CAPTIONS))
    (tmp_path / "rows.tsv").write_text("id\tcaption\n" + rows, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_filter_of_ones_own_rejects_and_is_explained(own: Path, command: Command) -> None:
    """In worker processes, which have never heard of it; in the funnel, the report and the
    provenance."""
    output = own / "out"
    arguments = [
        "--dataset",
        "custom",
        "--input",
        "rows.tsv",
        "--preset",
        "mine.yaml",
        "--plugin",
        "my_filters",
    ]
    arguments += [
        "--output",
        "out",
        "--stages",
        "captions,export",
        "--workers",
        "2",
        "--unit-rows",
        "2",
    ]
    done = command(*arguments, cwd=own)
    assert done.returncode == 0, done.stderr
    rejected = pq.read_table(output / "rejected")
    found = dict(zip(rejected["caption"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    assert found[MANY] == "many_objects"
    assert pq.read_table(output / "kept")["caption"].to_pylist() == [CAPTIONS[0], CAPTIONS[2]]
    steps = {
        step["reason"]: step for step in json.loads((output / "funnel.json").read_text())["steps"]
    }
    assert steps["many_objects"]["stage"] == "captions" and steps["many_objects"]["rejected"] == 1
    assert "image shows &lt;really&gt;" in (output / "report.html").read_text(encoding="utf-8")
    record = json.loads((output / "run.json").read_text())
    assert record["plugins"] == ["my_filters"]
    assert record["preset"]["filters"] == {
        "many_objects": {"max_objects": 6},
        "banner": {"max_ratio": 4.0},
    }
    assert "many_objects" in done.stdout

    again = command(*arguments, cwd=own)
    assert NOTHING_LEFT in again.stdout

    (own / "mine.yaml").write_text("many_objects: {max_objects: 20}\n", encoding="utf-8")
    looser = command(*arguments, cwd=own)
    assert looser.returncode == 0 and "without parsing" in looser.stdout
    assert MANY in pq.read_table(output / "kept")["caption"].to_pylist()


@pytest.mark.slow
def test_the_installed_command_finds_a_module_in_the_current_folder(own: Path) -> None:
    """Its own folder is on the import path in place of the current one, here and in its workers."""
    script = Path(sysconfig.get_path("scripts"), "open-diht")
    arguments = [
        "--input",
        "rows.tsv",
        "--preset",
        "mine.yaml",
        "--plugin",
        "my_filters",
        "--output",
        "out",
    ]
    arguments += ["--stages", "captions,export", "--workers", "2", "--unit-rows", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [script, "filter", *arguments], cwd=own, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "many_objects" in pq.read_table(own / "out" / "rejected")["reason"].to_pylist()


def test_a_section_for_an_unknown_filter_and_a_plugin_that_is_not_there_are_refused(own, command):
    arguments = [
        "--output",
        "out",
        "--dataset",
        "custom",
        "--input",
        "rows.tsv",
        "--preset",
        "mine.yaml",
    ]
    without = command(*arguments, cwd=own)
    assert without.returncode == 2 and "unknown key many_objects" in without.stderr
    assert "For a filter of your own, name its module with --plugin" in without.stderr
    wrong = command(*arguments, "--plugin", "my_filter", cwd=own)
    assert wrong.returncode == 2 and "--plugin my_filter: ModuleNotFoundError" in wrong.stderr
    assert not (own / "out").exists()


def test_the_image_filter_of_the_page_rejects_banners(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("open_diht.filters.base._registered", Registry("{name} is taken"))
    exec(MODULE, {"__name__": "my_filters"})
    preset = load_preset(str(own / "mine.yaml"))
    sizes = {"width": [400, 401, 100], "height": [100, 100, 500]}
    evidence = ImageEvidence([""] * 3, pa.table(sizes), np.zeros(3, np.int64))
    assert preset.image_filters[-1].rejects(evidence).tolist() == [False, True, False]


@dataclass(frozen=True, kw_only=True)
class Late(CaptionFilter):
    """Captions that begin late in the alphabet; a filter without annotations."""

    reason = "late"
    explanation = "The caption begins with a late letter."
    needs_annotations = False
    last: str = "m"

    def rejects(self, captions: CaptionEvidence) -> Bools:
        texts = captions.rows["caption"].to_pylist()
        return np.array([text is not None and text[0].lower() > self.last for text in texts], bool)


def _named(reason: str) -> type[Late]:
    members = {"reason": reason, "__module__": __name__, "__annotations__": {}}
    return dataclass(frozen=True, kw_only=True)(type("Named", (Late,), members))


@pytest.mark.parametrize(
    "reason", ["action", "text_spotting", "clip_score", "image_unreadable", "captions", "foresee"]
)
def test_a_reason_or_section_that_is_built_in_is_refused(reason, tmp_path, monkeypatch):
    monkeypatch.setattr("open_diht.filters.base._registered", Registry("{name} is taken"))
    register_filter(_named(reason))
    (tmp_path / "mine.yaml").write_text(f"{reason}: {{}}\n", encoding="utf-8")
    with pytest.raises(
        BadPreset,
        match=f"filter Named: {reason} is a built-in reason or section; register it under",
    ):
        load_preset(str(tmp_path / "mine.yaml"))


def test_no_two_filters_may_have_one_reason(own, filtering, monkeypatch):
    monkeypatch.setattr("open_diht.filters.base._registered", Registry("{name} is taken"))
    register_filter(Late)
    (own / "mine.yaml").write_text("late: {}\ncolumns: {late: {max: 1}}\n", encoding="utf-8")
    with pytest.raises(
        BadPreset, match=r"columns\.late: late is the reason of another filter; rename the column"
    ):
        load_preset(str(own / "mine.yaml"))
    register_filter(_named("duplicate_pair"))
    (own / "mine.yaml").write_text("duplicate_pair: {}\n", encoding="utf-8")
    with pytest.raises(WrongUse, match="duplicate_pair is the reason of two filters; rename"):
        filtering(
            own / "rows.tsv", own / "out", preset=str(own / "mine.yaml"), stages=("captions",)
        )
    assert not (own / "out").exists()


def test_a_looser_filter_without_annotations_has_more_images_read(
    tmp_path, with_images, tsv, filtering, ocr_models, monkeypatch
):
    monkeypatch.setattr("open_diht.filters.base._registered", Registry("{name} is taken"))
    register_filter(Late)
    manifest = tsv(tmp_path / "a.tsv", with_images(tmp_path / "images", 20))
    preset = tmp_path / "mine.yaml"

    def run(output, last):
        preset.write_text(f"base: paper\nlate: {{last: {last}}}\n", encoding="utf-8")
        result = filtering(manifest, tmp_path / output, preset=str(preset), stages=("spotting",))
        assert result.status == 0, result.said
        return result.tables()

    strict = run("out", "a")
    loose = run("out", "y")
    assert loose == run("fresh", "y") != strict
    assert run("out", "a") == strict


def test_a_plugin_that_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match="broken_plugin: ZeroDivisionError: division by zero"):
        load_plugin("broken_plugin")
